"""What the measuring parent and its workers say to each other: one JSON object a line, a question and its answer.

    parent                                  worker
    {"load": {kind, path, inputs, …}}       {"ready": {"runtime": …, "seconds": …}}
    {"time": calls, "inputs": file}         {"seconds": [… one a call], "cpu_seconds": …, "joules": … or null}
    {"memory": true}                        {"bytes": … or null}
    end of input                            leaves

Without `inputs` those of `load` are taken. `ready`'s seconds: from the runtime imported to the first answer given. An
answer {"error": reason} ends the exchange. The worker's own stdout goes to stderr, so that nothing gets between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

Kind = Literal["artifact", "onnx", "folder", "fitted", "local"]


class Load(BaseModel):
    """What a worker loads. `inputs`: an .npz of one batch; `task` and `labels`: to build the task (torch models)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    path: Path | None
    inputs: Path
    threads: int
    opens: str = ""
    """Of an artifact: its kind, by which its runtime is found."""
    task: dict[str, JsonValue] | None = None
    labels: tuple[str, ...] = ()
    teacher: dict[str, JsonValue] | None = None
