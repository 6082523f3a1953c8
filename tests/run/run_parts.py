"""A whole run at tiny size: sixty-odd texts, a BERT of a few kilobytes as teacher, seconds on one core."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tiny import save, tiny_bert, tiny_tokenizer

LABELS = ["card", "fee", "transfer"]
_WORDS = {
    "card": ["card", "lost", "chip", "pin"],
    "fee": ["fee", "charged", "cost", "price"],
    "transfer": ["transfer", "sent", "money", "late"],
}


def texts(label: str, start: int, count: int) -> list[str]:
    """Distinct texts of one label."""
    words = _WORDS[label]
    return [f"my {words[i % 4]} number {i} is {words[(i // 4) % 4]} today" for i in range(start, start + count)]


def write_data(folder: Path, *, labelled: bool = True) -> Path:
    """train.jsonl and test.jsonl in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, start, count in (("train", 0, 32), ("test", 100, 16)):
        rows = [
            {"text": text, **({"label": label} if labelled else {})}
            for label in LABELS
            for text in texts(label, start, count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder


def write_teacher(folder: Path, labels: list[str] = LABELS, *, layers: int = 2) -> Path:
    """An untrained BERT with a head, as a Transformers folder."""
    tokenizer = tiny_tokenizer([t for label in LABELS for t in texts(label, 0, 32)])
    return save(tiny_bert(tokenizer, labels, hidden=32, layers=layers), tokenizer, folder)


def recipe(root: Path, **changes: Any) -> dict[str, Any]:
    """A recipe's fields; `changes` replace whole sections."""
    return {
        "name": "tiny",
        "task": {"kind": "text_classification", "max_length": 32},
        "teacher": {
            "kind": "local", "model": str(root / "teacher"), "licence": "apache-2.0", "fit": "full",
            "fitting": {"epochs": 3, "learning_rate": 0.003, "batch_size": 16},
        },
        "data": {"source": str(root / "data"), "transfer": [{"kind": "augment_text", "rows": 40}]},
        "student": {"kind": "from_teacher", "layers": 1, "hidden_size": 16},
        "objectives": [{"kind": "forward_kl", "temperature": 2.0}, {"kind": "hidden", "weight": 0.5}],
        "training": {"epochs": 4, "batch_size": 16, "learning_rate": 0.005, "evaluations": 2, "checkpoints": 8},
        "report": {"bootstrap": 200, "latency": False},
        **changes,
    }  # fmt: skip


def make(root: Path, **changes: Any) -> Path:
    """Data, teacher and recipe.yaml below `root`; returns the recipe's path."""
    write_data(root / "data")
    write_teacher(root / "teacher")
    path = root / "recipe.yaml"
    path.write_text(json.dumps(recipe(root, **changes)), encoding="utf-8")  # JSON is YAML
    return path


if __name__ == "__main__":  # a run that kills itself when a stage's line is said, or in a training step
    import os
    import signal

    import torch

    import attar

    torch.set_num_threads(1)
    where, at = sys.argv[2], sys.argv[3]

    def say(line: str) -> None:
        if at in line:
            os.kill(os.getpid(), signal.SIGKILL)

    if at.startswith("step "):
        from attar.training.callbacks import Bar as _Bar

        def die(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.phase == "student" and state.global_step == int(at.split()[1]):
                os.kill(os.getpid(), signal.SIGKILL)

        _Bar.on_step_end = die  # type: ignore[method-assign]
    attar.distill(sys.argv[1], where, say=say)
