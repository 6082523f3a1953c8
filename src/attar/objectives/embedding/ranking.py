"""Objectives on the scores that a query gives its documents, one value a query.

Shape letters: N queries, L documents of a query.
"""

from __future__ import annotations

import torch
from torch import Tensor

_INF = float("inf")


def margin_mse(student_scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """Mean over negatives j of ((s_0 - s_j) - (t_0 - t_j))^2 per query. Hofstätter et al. 2020 (arXiv:2010.02666).

    Both [N, L], float32 or float64: column 0 is the positive document, the others are negatives; an entry that is -inf
    on both sides is no document. Returns [N], >= 0, and 0 for a query without a positive or without a negative. No
    gradient reaches the teacher.

    Asks for the teacher's margins, so a number added to all of a query's scores changes nothing, but their scale must
    be the teacher's. A temperature only rescales it (by 1 / T^2, which nothing multiplies back). Choose it where scores
    are unbounded numbers, as those of a cross-encoder; `forward_kl` on the same rows (listwise_kl) where the order
    near the top matters more than margins to far documents. With one negative it is twice `logit_mse` of the pair.
    """
    teacher_scores = teacher_scores.detach()
    dead = (student_scores == -_INF) & (teacher_scores == -_INF)
    gap = torch.where(dead, 0.0, student_scores - teacher_scores)
    counts = ~(dead[:, 1:] | dead[:, :1])
    squares = torch.where(counts, (gap[:, :1] - gap[:, 1:]).square(), 0.0)
    return squares.sum(-1) / counts.sum(-1).clamp(min=1)
