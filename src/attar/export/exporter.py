"""The protocol of every exporter of classifiers: from a student and the spec of one file to that file in a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from attar.errors import ExportError
from attar.export.graph import Graph, trace_graph
from attar.recipe.outcome import ClassifierSpec
from attar.tasks.base import Encoded, Processor, Task

_CALIBRATION_BATCH = 8
SpecT = TypeVar("SpecT", bound=ClassifierSpec, contravariant=True)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained classifier in eval mode on the CPU, with what an exporter may read."""

    model: nn.Module
    task: Task
    processor: Processor
    rows: Encoded
    """Training rows: what a file is traced with and calibrated on."""
    temperature: float = 1.0
    """Of its logits, fitted on validation."""
    graphs: dict[int, Graph] = field(default_factory=dict[int, Graph], repr=False)
    """By opset: traced once for all files that need it."""

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise ExportError("no training rows: a file is traced with some, and its int8 is calibrated on them.")

    def graph(self, opset: int) -> Graph:
        """The ONNX graph. Raises ExportError, MissingExtra."""
        if opset not in self.graphs:
            self.graphs[opset] = trace_rows(self.model, self.task, self.processor, self.rows, opset)
        return self.graphs[opset]

    def calibration(self, count: int, together: int = _CALIBRATION_BATCH) -> list[dict[str, np.ndarray]]:
        """At most `count` of the training rows, evenly spread, in batches of `together`."""
        rows = spread(len(self.rows), count)
        groups = [rows[i : i + together] for i in range(0, len(rows), together)]
        return [arrays(batch) for batch in batches(self.task, self.rows, groups, self.processor)]


@dataclass(frozen=True)
class Made:
    """What an exporter wrote into the folder."""

    file: str
    """The model's file, whose hash stands in the record."""
    note: str
    """How it was made."""
    besides: tuple[str, ...] = ()
    """Other files that the runtime reads."""
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the card tells of this kind alone; with `static` (see `runtimes.static`) the runtime needs the card."""


class Exporter(Protocol[SpecT]):
    """Writes one kind of file into `folder`, which is new and goes if this raises.

    Its inputs are those of the task's batches, by name, its one output is `logits` [N, C]; it is opened by
    `runtimes.open_artifact`. Raises ExportError with the reason where the student cannot be such a file, MissingExtra
    with the pip command.
    """

    def __call__(self, student: Trained, spec: SpecT, folder: Path) -> Made:
        """Write the file."""
        ...


def trace_rows(model: nn.Module, task: Task, processor: Processor, encoded: Encoded, opset: int) -> Graph:
    """`trace_graph` on a batch of the longest and a median row."""
    order = np.argsort(encoded.lengths, kind="stable")
    return trace_graph(model, task.batch(encoded, [int(order[-1]), int(order[len(order) // 2])], processor), opset)


def single_rows(task: Task, encoded: Encoded, processor: Processor) -> Iterator[dict[str, Tensor]]:
    """Every row as a batch of its own, unpadded: as the file is used and as its latency is measured.

    Dynamic int8 scales activations over a whole batch, so only single rows give answers that do not depend on company.
    """
    return batches(task, encoded, [[row] for row in range(len(encoded))], processor)


def batches(
    task: Task, encoded: Encoded, groups: Iterable[Sequence[int]], processor: Processor
) -> Iterator[dict[str, Tensor]]:
    """Padded batches of the given groups of rows."""
    return (task.batch(encoded, group, processor) for group in groups)


def arrays(batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """A batch as numpy arrays."""
    return {name: value.cpu().numpy() for name, value in batch.items()}


def spread(total: int, most: int) -> list[int]:
    """At most `most` of `total` row numbers, evenly spread."""
    return [int(row) for row in np.unique(np.linspace(0, total - 1, min(total, most)).round())]
