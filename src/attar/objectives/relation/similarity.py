"""Similarity-preserving distillation: which rows of the batch each row resembles.

Shape letters: N rows, D_s and D_t the student's and the teacher's width.
"""

from __future__ import annotations

from torch import Tensor

from attar.objectives.directions import unit


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """1/N^2 || G_s - G_t ||^2, a batch objective. Tung & Mori 2019 (arXiv:1907.09682).

    G is the N x N Gram matrix of a side's rows, each of its rows at unit length. [N, D_s] and [N, D_t] (what is after N
    is flattened: a feature map stands as one vector), float32 or float64; returns a scalar in [0, 4 / N]. At N = 1 it
    is 0 with a live graph. No gradient reaches the teacher.

    Unmoved by a common factor and a rotation of either side, but not by a shift. The rows of G are unit vectors and
    there are N of them, so the value falls as 1 / N: doubling the batch halves it, and a weight belongs to a batch
    size. Sees the local batch alone. Sibling: `cka`, centred and free of N.
    """
    gap = _similarities(student) - _similarities(teacher.detach())
    return gap.square().sum() / max(len(student), 1) ** 2


def _similarities(features: Tensor) -> Tensor:
    rows = features.flatten(1)
    return unit(rows @ rows.mT)
