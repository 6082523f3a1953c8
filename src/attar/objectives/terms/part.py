"""A term that reads more of the models than their logits: hidden states, feature maps, attentions.

A part may learn something (projectors): it is a module, trained and checkpointed with the student, never exported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from attar.errors import TrainingError
from attar.objectives.reduction.share import Reduced
from attar.signals import HiddenKey, Pool, Signals, Wanted

_Signal = TypeVar("_Signal")
Pair = tuple[int, int]
"""(student layer, teacher layer), both counted from 0."""


class Part(nn.Module, ABC):
    """One term of the sum, evaluated by itself and without its weight."""

    pairs: tuple[Pair, ...] = ()
    """The layers that it compares, for the record."""

    @property
    @abstractmethod
    def wanted(self) -> tuple[Wanted, Wanted]:
        """What it asks of the student, and of the teacher."""

    def kept(self, batch_size: int, mask: Tensor | None) -> int:
        """What it keeps of a micro-batch with the student's attention `mask` [N, T]: rows, unless it says otherwise."""
        return batch_size

    @abstractmethod
    def forward(self, student: Signals, teacher: Signals | None, count: float) -> Reduced:
        """The total with its graph and the plain value, one number each, both divided by the step's `count`."""


class PairedPart(Part):
    """A part that compares layers: its value is the mean over its pairs of what `compare` finds."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        super().__init__()
        self.pairs = tuple(pairs)

    @abstractmethod
    def compare(self, pair: Pair, student: Signals, teacher: Signals | None, count: float) -> Reduced:
        """One pair's total and value."""

    def forward(self, student: Signals, teacher: Signals | None, count: float) -> Reduced:
        """See `Part.forward`."""
        return mean_of([self.compare(pair, student, teacher, count) for pair in self.pairs])


def mean_of(reduced: Sequence[Reduced]) -> Reduced:
    """Several values as one: their mean."""
    values = torch.stack([value for one in reduced for value in one.values])
    return Reduced(torch.stack([one.total for one in reduced]).mean(), [values.mean()])


def wanted_states(pairs: Sequence[Pair], pool: Pool) -> tuple[Wanted, Wanted]:
    """Both sides' hidden states of the pairs, pooled."""
    sides = (dict.fromkeys(HiddenKey(pair[side], pool) for pair in pairs) for side in (0, 1))
    ours, theirs = (Wanted(logits=False, hidden=tuple(keys)) for keys in sides)
    return ours, theirs


def both_states(pair: Pair, pool: Pool, student: Signals, teacher: Signals | None) -> tuple[Tensor, Tensor]:
    """Both sides' hidden states of one pair. Raises TrainingError where one was not asked for."""
    mine, theirs = (HiddenKey(layer, pool) for layer in pair)
    ours = present(student.hidden.get(mine), f"the student's hidden state {mine.layer} ({pool})")
    states = None if teacher is None else teacher.hidden.get(theirs)
    return ours, present(states, f"the teacher's hidden state {theirs.layer} ({pool})")


def present(signal: _Signal | None, what: str) -> _Signal:
    """The signal. Raises TrainingError if it is not there."""
    if signal is None:
        raise TrainingError(
            f"{what} were not asked for or not given; ask with `Terms.wanted_student` and `Terms.wanted_teacher`."
        )
    return signal
