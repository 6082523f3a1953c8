"""Objectives on hidden states: how far the student's vectors are from the teacher's, one value a row.

A row is one vector: a pooled text or image, or one token. Where the widths differ, `terms/hidden.py` puts a learned
projector in front of the student's side. Shape letters: N rows, D width.
"""

from __future__ import annotations

from torch import Tensor

from attar.objectives.directions import unit


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos(f_s, f_t) per row, in 0..2. DistilBERT, Sanh et al. 2019 (arXiv:1910.01108).

    Both [N, D], float32 or float64; returns [N]. Computed as half the squared distance of the unit vectors, which is
    the same number without its rounding near 0. The zero vector has no direction: it is 1/2 from any direction and 0
    from itself. No gradient reaches the teacher.

    Asks for the direction only; choose `mse_distance` where the length of a state carries meaning too.
    """
    return 0.5 * (unit(student) - unit(teacher.detach())).square().sum(-1)


def mse_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference mean_d (f_s - f_t)^2 per row. FitNets, Romero et al. 2014 (arXiv:1412.6550).

    Both [N, D], float32 or float64; returns [N], >= 0. No gradient reaches the teacher. TinyBERT (arXiv:1909.10351)
    uses it on every mapped layer. Siblings: `cosine_distance`, blind to length; `fitnet`, the same of feature maps.
    """
    return (student - teacher.detach()).square().mean(-1)
