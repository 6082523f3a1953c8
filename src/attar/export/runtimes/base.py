"""What every opened file answers: logits of a batch, through its own runtime. Imports no torch.

Shape letters: N rows, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.errors import ExportError

Array = NDArray[Any]
Inputs = Mapping[str, Any]
"""Arrays or CPU tensors by the names of the model's inputs, rows first."""

OUTPUT = "logits"
"""The one output of every exported classifier."""
CARD = "attar.json"
"""Beside every file: labels, temperature, inputs, outputs, hash; of static files their shapes."""


class Runner(ABC):
    """An exported classifier, opened on the CPU."""

    inputs: list[str]
    outputs: list[str]
    runtime: str
    """Name and version of what runs it."""
    classes: int

    def __call__(self, inputs: Inputs) -> Array:
        """Logits float32 [N, C] of one batch; what the file does not read is left out. Raises ExportError."""
        return self.ready(inputs)()

    def ready(self, inputs: Inputs) -> Callable[[], Array]:
        """The forward pass on one batch, whose inputs are converted beforehand: what is timed.

        Raises ExportError where an input is absent or does not fit the file.
        """
        absent = [name for name in self.inputs if name not in inputs]
        if absent:
            raise ExportError(f"the file needs the inputs {self.inputs}, but {absent} are not among {sorted(inputs)}.")
        return self.prepared({name: np.asarray(inputs[name]) for name in self.inputs})

    @abstractmethod
    def prepared(self, inputs: dict[str, Array]) -> Callable[[], Array]:
        """As `ready`, with all inputs of the file and no others."""

    def logits(self, batches: Iterable[Inputs]) -> Array:
        """Logits float32 [N, C] of all batches, in their order; without any, N is 0."""
        answered = [self(batch) for batch in batches]
        return np.concatenate(answered) if answered else np.empty((0, self.classes), np.float32)
