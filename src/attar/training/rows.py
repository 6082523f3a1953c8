"""Rows to train on, and their order: decided by seed and epoch alone, the same for student and control."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from torch import nn
from torch.utils.data import Dataset

from attar.errors import TrainingError
from attar.known import Known
from attar.signals import Signals, Wanted
from attar.tasks.base import Encoded, Processor

_POOL = 50
"""Steps' worth of shuffled rows that are sorted by length together."""


class SignalReader(Protocol):
    """Stored signals of the training rows."""

    def read(self, rows: np.ndarray, /) -> Signals:
        """Signals of some rows (int64 [n], numbers of training rows), on the CPU."""
        ...


@dataclass(frozen=True)
class LiveTeacher:
    """A teacher that is asked in every step, through its own view of the same rows."""

    model: nn.Module
    encoded: Encoded
    processor: Processor
    wanted: Wanted
    known: Known | None = None
    """Which of its outputs the student has; None: all, in the same order."""
    alike: bool = True
    """Whether both sides must read the same tokens."""
    spans: tuple[list[np.ndarray], list[np.ndarray]] | None = None
    """Where two tokenizers meet: the span of each token, int64 [T], one a sequence of the student and one of the
    teacher.
    """


@dataclass(frozen=True)
class TrainingRows:
    """What is trained on: `student.labels` are those to train on, -100 or NaN where a row has none.

    One of `signals` and `live` where the objectives read the teacher; neither for the control. Raises TrainingError
    where there are no rows, or the two views differ in number.
    """

    student: Encoded
    processor: Processor
    signals: SignalReader | None = None
    live: LiveTeacher | None = None
    labels_alone: bool = False
    """Whether labels are all that counts: sequences of a language model without any need not be read then."""

    def __post_init__(self) -> None:
        if not len(self.student):
            raise TrainingError("there are no rows to train on. Check data.source, and data.transfer if it is used.")
        if self.signals is not None and self.live is not None:
            raise TrainingError("both stored signals and a live teacher are given; the objectives read one. Give one.")
        if self.live is not None and len(self.live.encoded) != len(self.student):
            raise TrainingError(
                f"the student reads {len(self.student)} rows, the live teacher {len(self.live.encoded)}; both must be "
                "the same rows in the same order."
            )

    def __len__(self) -> int:
        return len(self.student)


@dataclass(frozen=True)
class Batch:
    """Which rows make up one micro-batch, and where it stands, so that random choices can be drawn from its place."""

    rows: np.ndarray
    epoch: int
    number: int
    """Within the epoch, over all processes."""


class Batches:
    """Micro-batches of rows of like length, for one process of `world`.

    Rows are shuffled, sorted by length within pools of 50 steps, cut into steps, and the steps are shuffled. Every row
    comes once an epoch, and all steps of an epoch have the same number of rows, within one: there is no small step at
    the end. Which rows make up a step depends on rows a step, seed and epoch; not on how they are divided over
    `accumulate` micro-batches and `world` processes.
    """

    def __init__(
        self, lengths: np.ndarray, *, batch_size: int, accumulate: int, seed: int, world: int = 1, rank: int = 0
    ) -> None:
        if len(lengths) < world:
            raise TrainingError(f"{len(lengths)} rows cannot feed {world} processes. Use fewer processes.")
        self.lengths, self.batch_size, self.accumulate = lengths, batch_size, accumulate
        self.seed, self.world, self.rank, self.epoch = seed, world, rank, 0
        self.steps = steps_per_epoch(len(lengths), batch_size=batch_size, accumulate=accumulate, world=world)
        self.a_step = min(accumulate, len(lengths) // self.steps // world)
        """Micro-batches a step and process."""

    def __len__(self) -> int:
        return self.steps * self.a_step

    def __iter__(self) -> Iterator[Batch]:
        pieces = self.a_step * self.world
        for step, rows in enumerate(self._steps()):
            for at, piece in enumerate(np.array_split(rows, pieces)):
                if at % self.world == self.rank:
                    yield Batch(piece, self.epoch, step * pieces + at)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass is for."""
        self.epoch = epoch

    def _steps(self) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        bounds = np.arange(self.steps + 1) * len(order) // self.steps
        for start in range(0, self.steps, _POOL):
            pool = order[bounds[start] : bounds[min(start + _POOL, self.steps)]]
            pool[:] = pool[np.argsort(self.lengths[pool], kind="stable")]
        steps = [order[start:end] for start, end in pairwise(bounds)]
        return [steps[i] for i in rng.permutation(self.steps)]


def steps_per_epoch(rows: int, *, batch_size: int, accumulate: int, world: int = 1) -> int:
    """Optimiser steps a pass over `rows`: as few as the batch size allows, at least one."""
    a_step = batch_size * accumulate * world
    steps = -(-rows // a_step)
    return steps if rows // steps >= accumulate * world else max(1, rows // a_step)


class Places(Dataset[Batch]):
    """Stands where a DataLoader wants a dataset: hands a `Batch` on to the collator, which gathers its rows at once."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, batch: Batch) -> Batch:
        return batch

    def __getitems__(self, batch: Batch) -> Batch:
        """What a DataLoader asks for all rows of a batch."""
        return batch
