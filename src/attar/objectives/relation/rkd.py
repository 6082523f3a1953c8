"""Relational knowledge distillation: distances and angles between the rows of a batch.

Shape letters: N rows, D_s and D_t the student's and the teacher's width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from attar.objectives.directions import unit

_DISTANCES_FROM = 2
_ANGLES_FROM = 3


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1/N^2 sum_ij huber(d_s(i, j) / mu_s - d_t(i, j) / mu_t): a batch objective. Park et al. 2019 (arXiv:1904.05068).

    d is the Euclidean distance of two rows of one side, mu that side's mean distance over the pairs that do not
    coincide; huber is half the square up to 1, then linear. [N, D_s] and [N, D_t] (what is after N is flattened),
    float32 or float64; returns a scalar >= 0. 0 with a live graph where N < 2. The gradient passes through mu_s too;
    none passes through a distance of 0, and none reaches the teacher.

    Unmoved by a common factor, shift or rotation of either side. The sum runs over all N^2 pairs, as in the authors'
    code, so doubling the batch changes nothing. Distances come from differences: the authors' expansion of the square
    loses the near ones, and lets coinciding rows into mu. Sees the local batch alone. Siblings: `rkd_angle` (the
    stronger of the two in the paper; both are added at 1 : 2), `cka`.
    """
    if len(student) < _DISTANCES_FROM:
        return student[:0].sum()
    ours, theirs = _relative_distances(student), _relative_distances(teacher.detach())
    return functional.smooth_l1_loss(ours, theirs)


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """1/N^3 sum_ijk huber(cos_s(j, i, k) - cos_t(j, i, k)): a batch objective. Park et al. 2019 (arXiv:1904.05068).

    cos(j, i, k) is the cosine of the angle at row i between rows j and k, 0 where j or k coincides with i; huber is
    half the square up to 1, then linear. [N, D_s] and [N, D_t] (what is after N is flattened), float32 or float64;
    returns a scalar in 0..1.5. 0 with a live graph where N < 3. No gradient reaches the teacher.

    Unmoved by a common factor, shift or rotation of either side, and by doubling the batch. Holds N^2 (N + D) numbers a
    side: mind N beyond one or two hundred. Sees the local batch alone. Siblings: `rkd_distance` (pairs), `cka`.
    """
    if len(student) < _ANGLES_FROM:
        return student[:0].sum()
    return functional.smooth_l1_loss(_cosines(student), _cosines(teacher.detach()))


def _relative_distances(features: Tensor) -> Tensor:
    """[N, N], in units of their mean over pairs that do not coincide."""
    rows = features.flatten(1)
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def _cosines(features: Tensor) -> Tensor:
    """[N, N, N]: the corner first."""
    rows = features.flatten(1)
    edges = unit(rows - rows.unsqueeze(1))
    return edges @ edges.mT
