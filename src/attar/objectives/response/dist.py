"""How alike two sides rank a row's outputs, and an output's rows: a batch objective.

Shape letters: N rows, V outputs (classes or tokens). p is the teacher's distribution, q the student's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.objectives.response.kl import log_probabilities

_INF = float("inf")
_ROUNDING = 64.0
"""A line that varies by no more than this many units in the last place is taken as constant."""


def dist(student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    """Correlation: beta mean_rows (1 - rho) + gamma mean_columns (1 - rho).

    DIST, Huang et al. 2022 (arXiv:2205.10536). rho is Pearson's correlation of p and q, along each row
    (how one example's outputs compare) and along each column (how one output's examples compare). Both [N, V], float32
    or float64; entries at -inf on both sides are left out. `beta`, `gamma` >= 0. Returns a scalar in 0..2 (beta +
    gamma). Lines that are constant on either side (all columns, at N = 1) have no correlation and are left out of the
    mean, which is 0 where none remains. No gradient reaches the teacher.

    0 wherever q = a p + c with a > 0 along each line, so not only at q = p. Free of scale: a temperature shapes p and q
    but needs no factor. Columns see the local batch only: accumulated micro-batches are not one big batch. Choose it
    where the teacher is much stronger and its exact probabilities are too much to ask for. Siblings: `forward_kl` with
    `standardise_logits` (rows only, logits), `cka` (all rows at once).
    """
    if beta < 0.0 or gamma < 0.0:
        raise ValueError(f"dist: beta is {beta} and gamma {gamma}; both are weights, so >= 0")
    student, teacher = log_probabilities(student_logits, teacher_logits)
    alive = (student > -_INF) | (teacher > -_INF)
    q, p = student.exp(), teacher.exp()
    return beta * _uncorrelated(q, p, alive, 1) + gamma * _uncorrelated(q, p, alive, 0)


def _uncorrelated(q: Tensor, p: Tensor, alive: Tensor, dim: int) -> Tensor:
    """Mean of 1 - rho over the lines along `dim` that vary on both sides.

    Computed as half the squared distance of unit vectors, which is the same number without its rounding near 0.
    """
    (ours, we_vary), (theirs, they_vary) = _standardised(q, alive, dim), _standardised(p, alive, dim)
    varies = we_vary & they_vary
    apart = 0.5 * (ours - theirs).square().sum(dim)
    return torch.where(varies, apart, 0.0).sum() / varies.sum().clamp(min=1)


def _standardised(values: Tensor, alive: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Lines without their mean and of unit length, and which vary. First scaled to sum to 1: rare tokens are tiny."""
    total = values.detach().sum(dim, keepdim=True)
    values = values / torch.where(total > 0, total, 1.0)
    mean = values.sum(dim, keepdim=True) / alive.sum(dim, keepdim=True).clamp(min=1)
    centred = torch.where(alive, values - mean, 0.0)
    length = torch.linalg.vector_norm(centred, dim=dim, keepdim=True)
    size = torch.linalg.vector_norm(values.detach(), dim=dim, keepdim=True)
    varies = length > _ROUNDING * torch.finfo(values.dtype).eps * size
    return centred / torch.where(varies, length, 1.0), varies.squeeze(dim)
