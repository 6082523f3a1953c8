"""Centred kernel alignment: whether two models find the same rows alike, whatever their widths.

Shape letters: N rows, D_s and D_t the student's and the teacher's width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.objectives.directions import unit

_ROUNDING = 8.0
"""Features that vary by no more than this many units in the last place are taken as constant."""


def cka_similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Linear CKA, ||X^T Y||^2 / (||X^T X|| ||Y^T Y||) with columns centred. Kornblith et al. 2019 (arXiv:1905.00414).

    [N, D_s] and [N, D_t] (what is after N is flattened), float32 or float64; a scalar in 0..1, in their dtype. 1 where
    the rows of both sides are alike in the same way; unmoved by a rotation, a common factor and a common shift of
    either side. A side whose rows are all equal is 0 from one whose rows are not, and 1 from another such side.

    Needs the memory of D_s x D_t numbers, however many rows there are: choose it to compare layers on a probe batch.
    It is biased upward where N is not well above the widths: compare values at the same N only. The objective is
    `cka`.
    """
    (ours, we_vary), (theirs, they_vary) = _centred(student), _centred(teacher.detach())
    scale = _length(ours.mT @ ours) * _length(theirs.mT @ theirs)
    alike = (ours.mT @ theirs).square().sum() / torch.where(scale > 0, scale, 1.0)
    return torch.where(we_vary | they_vary, alike.clamp(max=1.0), 1.0)


def cka(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - `cka_similarity`, in 0..1: a batch objective. Kornblith et al. 2019 (arXiv:1905.00414).

    [N, D_s] and [N, D_t] (what is after N is flattened), float32 or float64; returns a scalar. 0 with a live graph at
    N = 0, 1 and 2, where every pair of sides is alike; a side whose rows are all equal is 1 from one whose rows are
    not, without a gradient. No gradient reaches the teacher.

    Computed as half the squared distance of both sides' N x N Gram matrices at unit length, which is the same number
    without its rounding near 0. Sees the local batch alone. Needs no projector: choose it where widths differ and only
    the geometry matters. Siblings: `similarity_preserving` (not centred, row by row), `rkd_distance`.
    """
    (ours, we_vary), (theirs, they_vary) = _centred(student), _centred(teacher.detach())
    gap = (unit((ours @ ours.mT).flatten()) - unit((theirs @ theirs.mT).flatten())).square().sum()
    return torch.where(we_vary == they_vary, 0.5 * gap, gap)


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features without their mean row, exactly 0 where only rounding is left of them, and whether something is."""
    rows = features.flatten(1)
    centred = rows - rows.sum(0) / max(len(rows), 1)
    varies = _length(centred) > _ROUNDING * torch.finfo(rows.dtype).eps * _length(rows)
    return torch.where(varies, centred, 0.0), varies


def _length(matrix: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrix)
