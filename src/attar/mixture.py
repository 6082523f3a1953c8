"""What several models say as one teacher: mixed by weights, or each for rows of its own.

A mixture of language models is never whole: its logits are made a block of rows at a time, each member's in turn, so
that no more than a few blocks are held. Shape letters: N rows, V outputs, n rows of a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from attar.known import Known
from attar.logits import Head, Logits, Projection, Rows, arithmetic

_BLOCK = 2**22
"""Logits of a teacher that are held at once while they are put into a student's tokens: 16 MB of float32."""
Combine = Literal["probabilities", "logits"]
Problem = Literal["single_label", "multi_label", "regression"]


def combined(blocks: Iterable[Tensor], weights: Sequence[float], combine: Combine, problem: Problem) -> Tensor:
    """Logits [n, V] of several models as one teacher's, float32 or float64; `weights` sum to 1.

    `probabilities`: log of the weighted mean of the models' probabilities, at temperature 1 (the teachers of Fukuda et
    al. 2017, Interspeech; the arithmetic mean of Hinton et al. 2015, arXiv:1503.02531). `logits`: the weighted mean of
    the logits, whose softmax is the normalised geometric mean. Multi-label rows are mixed cell by cell, as chances of
    yes and no; of a regression the numbers are averaged, either way. -inf is legal, where a token never comes.
    """
    total: Tensor | None = None
    against: Tensor | None = None
    for block, weight in zip(blocks, weights, strict=True):
        logits = arithmetic(block)
        if combine == "logits" or problem == "regression":
            total = logits * weight if total is None else total.add_(logits, alpha=weight)
            continue
        told = logits.log_softmax(-1) if problem == "single_label" else logsigmoid(logits)
        total = _added(total, told, weight)
        if problem == "multi_label":
            against = _added(against, logsigmoid(-logits), weight)
    assert total is not None, "there is a model"
    return total if against is None else total - against


def _added(total: Tensor | None, told: Tensor, weight: float) -> Tensor:
    told = told + math.log(weight)
    return told if total is None else torch.logaddexp(total, told)


@dataclass(frozen=True)
class Mixture:
    """Logits [N, V] of several language models, as their parts.

    Without `route` every model tells all rows, and they are `combined`; with it each row is one model's, as it says it.
    V is the narrowest head's: what wider ones have beyond is padding.
    """

    parts: tuple[Logits, ...]
    """Of each model [N, V or more]; with `route` of its own rows alone."""
    weights: tuple[float, ...] = ()
    combine: Combine = "probabilities"
    route: Tensor | None = None
    """int64 [N]: which part has the row."""
    places: Tensor | None = None
    """int64 [N]: the row's number in that part."""

    def __len__(self) -> int:
        return len(self.parts[0]) if self.route is None else len(self.route)

    @property
    def width(self) -> int:
        """V."""
        return min(width_of(part) for part in self.parts)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return device_of(self.parts[0])


@dataclass(frozen=True)
class Regrouped:
    """Logits [N, V_s] of a teacher who has more tokens than its student: where it would go on with a token that the
    student lacks, it goes on with the first of the tokens that the student spells that one with.

    p(s) is the sum of the teacher's probabilities of all tokens that begin so: the exact distribution of the next token
    of a text that is written in the student's tokens, as far as the teacher's own is one over texts.
    """

    inner: Logits | Mixture
    known: Known

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def width(self) -> int:
        """V_s."""
        return len(self.known.outputs)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return device_of(self.inner)


Told = Logits | Mixture | Regrouped
"""What a teacher says: dense logits [N, V], their parts, those of several models, or all that in a student's tokens."""


class Blocks(Protocol):
    """Logits that are made block by block."""

    def block(self, rows: Rows) -> Tensor:
        """Finished logits of the rows, [n, V] float32 or float64."""
        ...


class _Mixed:
    """A mixture, with its heads at hand."""

    def __init__(self, mixture: Mixture) -> None:
        self._of, self._width = mixture, mixture.width
        self._heads = [Head.of(part) for part in mixture.parts]

    def block(self, rows: Rows) -> Tensor:
        """See `Blocks`."""
        made, width = self._of, self._width
        if made.route is None or made.places is None:
            each = (head.block(rows)[:, :width] for head in self._heads)
            return combined(each, made.weights, made.combine, "single_label")
        route, places = made.route[rows], made.places[rows]
        found = self._heads[0].block(slice(0, 0)).new_empty(len(route), width)
        for number in route.unique().tolist():
            own = route == number
            found[own] = self._heads[number].block(places[own])[:, :width]
        return found


class _Grouped:
    """A teacher's blocks in its student's tokens; its own are made some rows at a time, as they may be much wider."""

    def __init__(self, regrouped: Regrouped) -> None:
        self._inner, self._known, self._rows = blocks_of(regrouped.inner), regrouped.known, len(regrouped)
        self._step = max(_BLOCK // width_of(regrouped.inner), 1)

    def block(self, rows: Rows) -> Tensor:
        """See `Blocks`."""
        if isinstance(rows, Tensor):
            return torch.cat([self._moved(some) for some in rows.split(self._step)])
        start, stop, _ = rows.indices(self._rows)
        starts = range(start, max(stop, start + 1), self._step)
        return torch.cat([self._moved(slice(at, min(at + self._step, stop))) for at in starts])

    def _moved(self, rows: Rows) -> Tensor:
        told, known = arithmetic(self._inner.block(rows)).log_softmax(-1), self._known
        own, others = (told.index_select(1, which) for which in (known.outputs, known.others))
        sums = torch.zeros_like(own).index_add_(1, known.starts, others.exp_())
        return torch.logaddexp(own, sums.log_())


def blocks_of(told: Told) -> Blocks:
    """How to make blocks of logits."""
    if isinstance(told, Regrouped):
        return _Grouped(told)
    return _Mixed(told) if isinstance(told, Mixture) else Head.of(told)


def dense(told: Told) -> Tensor:
    """All logits at once, [N, V]; as they are where they are dense."""
    return told if isinstance(told, Tensor) else blocks_of(told).block(slice(0, len(told)))


def width_of(told: Told) -> int:
    """V."""
    return told.shape[-1] if isinstance(told, Tensor) else told.width


def device_of(told: Told) -> torch.device:
    """Where the logits are."""
    return told.hidden.device if isinstance(told, Projection) else told.device


def rows_of(told: Told, rows: Tensor) -> Told:
    """The same of some rows, int64 [n], in this order; a row may stand there twice. Where there are none at all, what
    comes is of no meaning.
    """
    if isinstance(told, Regrouped):
        return replace(told, inner=rows_of(told.inner, rows))
    if not isinstance(told, Mixture):
        return _some(told, rows)
    if told.route is None or told.places is None:
        return replace(told, parts=tuple(_some(part, rows) for part in told.parts))
    if not len(told):
        return _some(told.parts[0], rows)
    return replace(told, route=told.route[rows], places=told.places[rows])


def _some(part: Logits, rows: Tensor) -> Logits:
    return _picked(part, rows) if isinstance(part, Tensor) else replace(part, hidden=_picked(part.hidden, rows))


def _picked(values: Tensor, rows: Tensor) -> Tensor:
    return values[rows] if len(values) else values.new_zeros(len(rows), *values.shape[1:])


def in_tokens_of(told: Told, known: Known) -> Told:
    """The same over a student's tokens, on the same device as `told`."""
    known = known.to(device_of(told))
    if not len(known.others):
        return outputs_of(told, known.outputs)
    assert not isinstance(told, Regrouped), "a teacher has one student at a time"
    return Regrouped(told, known)


def outputs_of(told: Told, outputs: Tensor) -> Told:
    """The same with some of the outputs, int64, in this order; their softmax runs over these alone."""
    assert not isinstance(told, Regrouped), "outputs are chosen before they are regrouped"
    if isinstance(told, Mixture):
        return replace(told, parts=tuple(_cut(part, outputs) for part in told.parts))
    return _cut(told, outputs)


def _cut(part: Logits, outputs: Tensor) -> Logits:
    if isinstance(part, Tensor):
        return part[:, outputs]
    return replace(part, weight=part.weight[outputs], bias=None if part.bias is None else part.bias[outputs])
