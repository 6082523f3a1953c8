"""Objectives on how rows lie to one another, as terms.

Shape letters: N rows, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import assert_never

from torch import nn

from attar.objectives.reduction.batch import reduce_batch
from attar.objectives.reduction.share import Reduced, RowFunction, Share, Term
from attar.objectives.relation import ContrastiveHeads, cka, rkd_angle, rkd_distance, similarity_preserving
from attar.objectives.terms.part import Pair, PairedPart, both_states, wanted_states
from attar.recipe.objectives import (
    CKASpec,
    CRDSpec,
    OnRelations,
    RKDAngleSpec,
    RKDDistanceSpec,
    SimilarityPreservingSpec,
)
from attar.signals import Inside, Pool, Signals, Wanted


class RelationTerm(PairedPart):
    """A batch objective on both sides' states; it sees the local micro-batch alone.

    `crd` learns a head a side for each pair, drawn from `seed`; the teacher's is trained, its features are not.
    """

    def __init__(
        self, name: str, spec: OnRelations, pairs: Sequence[Pair], student: Inside, teacher: Inside, seed: int
    ) -> None:
        super().__init__(pairs)
        self._spec, self._name = spec, name
        self._pool: Pool = spec.pool
        self.heads = nn.ModuleDict()
        """By pair, `STUDENT_TEACHER`; `crd` only."""
        if isinstance(spec, CRDSpec):
            for ours, theirs in pairs:
                key = f"{ours}_{theirs}"
                widths = _numbers(student, ours, spec), _numbers(teacher, theirs, spec)
                self.heads[key] = ContrastiveHeads(
                    *widths, seed=seed, name=f"{name}_{key}", width=spec.width, negatives=spec.negatives
                )

    @property
    def wanted(self) -> tuple[Wanted, Wanted]:
        """States of both sides, pooled as the spec says."""
        return wanted_states(self.pairs, self._pool)

    def compare(self, pair: Pair, student: Signals, teacher: Signals | None, count: float) -> Reduced:
        """See `PairedPart.compare`."""
        ours, theirs = both_states(pair, self._pool, student, teacher)
        term = Term(self._name, self._function(pair))
        return reduce_batch(ours, Share(term, theirs, None, count))

    def _function(self, pair: Pair) -> RowFunction:
        match self._spec:
            case RKDDistanceSpec():
                return rkd_distance
            case RKDAngleSpec():
                return rkd_angle
            case SimilarityPreservingSpec():
                return similarity_preserving
            case CKASpec():
                return cka
            case CRDSpec() as spec:
                return partial(self.heads[f"{pair[0]}_{pair[1]}"], temperature=spec.temperature)
            case _:
                assert_never(self._spec)


def _numbers(inside: Inside, layer: int, spec: OnRelations) -> int:
    """How many numbers stand for a row."""
    return inside.widths[layer] * (math.prod(inside.maps[layer]) if spec.pool == "map" else 1)
