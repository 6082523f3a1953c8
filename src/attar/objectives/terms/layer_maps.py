"""`layers: cka`: which layers of both sides are alike, seen on the same rows before training.

Shape letters: N rows, D width, L_s and L_t the student's and the teacher's layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from attar.objectives.relation import cka_similarity
from attar.objectives.terms.part import Pair


@dataclass(frozen=True)
class ChosenPairs:
    """What was chosen, and how alike the layers of each pair are."""

    pairs: tuple[Pair, ...]
    similarities: tuple[float, ...]
    """Linear CKA in 0..1, a pair."""


def choose_pairs(student: Mapping[int, Tensor], teacher: Mapping[int, Tensor]) -> ChosenPairs:
    """Each student layer with a teacher layer, so that the sum of linear CKA is largest and their order is kept.

    States by layer, [N, D] each, of the same N rows. The teacher's layers ascend from pair to pair; one serves several
    students' layers only where the student has more of them. Of equal sums the one with the lower layers is chosen.
    Evaluated in float64. The best layer of each student layer by itself would often cross or fall on one alone, since
    neighbouring layers are much alike and few rows favour the wider ones.
    """
    ours, theirs = sorted(student), sorted(teacher)
    similarity = np.array(
        [[float(cka_similarity(student[s].double(), teacher[t].double())) for t in theirs] for s in ours]
    )
    columns = in_order(similarity)
    return ChosenPairs(
        tuple((s, theirs[column]) for s, column in zip(ours, columns, strict=True)),
        tuple(round(float(similarity[row, column]), 4) for row, column in enumerate(columns)),
    )


def in_order(worth: np.ndarray) -> list[int]:
    """A column of [L_s, L_t] for each row, ascending (where L_s > L_t: not descending), with the largest sum."""
    rows, columns = worth.shape
    step = 1 if rows <= columns else 0
    best = np.full((rows, columns), -np.inf)
    before = np.zeros((rows, columns), dtype=np.int64)
    best[0] = worth[0]
    for row in range(1, rows):
        for column in range(step, columns):
            before[row, column] = best[row - 1, : column - step + 1].argmax()  # the first of equal ones
            best[row, column] = worth[row, column] + best[row - 1, before[row, column]]
    chosen = [int(best[-1].argmax())]
    for row in range(rows - 1, 0, -1):
        chosen.append(int(before[row, chosen[-1]]))
    return chosen[::-1]
