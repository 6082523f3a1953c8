"""What every task answers. A task is one file: how rows become batches, which model serves it, which metric counts.

Rows come from `attar.data` in one form: columns `text` (and `text_pair`) or `image`, of language models `text` (and
`prompt`) or `messages`; `label`, `origin`, and `slice` where the recipe asks for slices. `label` is an int64 id (-100:
none), a float32 multi-hot list, or a float (NaN: none). Shape letters: N rows, T tokens, C outputs (logits).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from datasets import Dataset
from torch import Tensor, nn

Problem = Literal["single_label", "multi_label", "regression"]
Processor = Any
"""A tokenizer or an image processor of Transformers, or the image view of a timm model."""

NO_LABEL = -100
ROUTE = "route"
"""Name among a batch's inputs, int64 [N]: which of several teachers is asked about a row."""


@dataclass(frozen=True)
class Encoded:
    """Rows as one model reads them, before padding."""

    inputs: dict[str, list[np.ndarray] | np.ndarray]
    """Text: per input name a list of int64 arrays, one a row. Images: `pixel_values`, uint8 [N, 3, H, W]."""
    lengths: np.ndarray
    """int64 [N]: tokens of each row (1 for images)."""
    labels: np.ndarray
    """int64 [N], float32 [N, C] or float32 [N]; -100 or NaN where a row has none."""
    truncated: int = 0
    """Rows that were cut."""
    route: np.ndarray | None = None
    """int64 [N]: by number, which of several teachers is asked about a row; None: nobody need know."""

    def __len__(self) -> int:
        return len(self.lengths)


class Task(Protocol):
    """One task with its labels."""

    @property
    def spec(self) -> Any:
        """The task's section of the recipe."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Names by id; one name for regression; empty for language models alone (data without labels takes the
        teacher's).
        """
        ...

    @property
    def problem(self) -> Problem:
        """Which kind of target."""
        ...

    @property
    def metric(self) -> str:
        """Name of the metric that counts, never `auto`."""
        ...

    @property
    def pipeline(self) -> str:
        """Name of the Transformers pipeline that serves the student."""
        ...

    def load_processor(
        self, folder: str | Path, *, trust_remote_code: bool = False, revision: str | None = None
    ) -> Processor:
        """Tokenizer or image processor of a model folder (or Hub name)."""
        ...

    def load_model(
        self,
        folder: str | Path,
        *,
        trust_remote_code: bool = False,
        revision: str | None = None,
        new_head: bool = False,
    ) -> nn.Module:
        """A model with a head for this task, in eval mode, float32. Never unpickles unchecked files.

        The head is the checkpoint's own, with its own labels; with `new_head` a fresh one for this task's labels.
        """
        ...

    def build_model(self, config: dict[str, Any]) -> nn.Module:
        """An untrained model with a head for this task, from a Transformers configuration (`model_type`, fields)."""
        ...

    def encode(self, rows: Dataset, processor: Processor) -> Encoded:
        """All rows as the model reads them; deterministic."""
        ...

    def batch(self, encoded: Encoded, rows: Sequence[int] | np.ndarray, processor: Processor) -> dict[str, Tensor]:
        """Padded inputs of some rows, as keywords of the model's forward (labels are not among them); and, for several
        teachers, `ROUTE` where the rows have one.
        """
        ...

    def content_keys(self, rows: Dataset) -> list[str]:
        """A content hash a row (inputs only, not labels): what stored signals are addressed by."""
        ...

    def example(self, row: dict[str, Any]) -> dict[str, str]:
        """A row for people: {"text": …} or {"image": data URL of a small PNG}."""
        ...
