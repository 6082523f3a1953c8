"""Distances between the student's and the teacher's answers that are no Kullback-Leibler divergence.

Shape letters: N rows, V outputs (classes or tokens). p is the teacher's distribution, q the student's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.objectives.response.derived import between_powers
from attar.objectives.response.kl import log_probabilities

_INF = float("inf")


def logit_mse(student_logits: Tensor, teacher_logits: Tensor, *, centre: bool = True) -> Tensor:
    """Squared distance || c(z_s) - c(z_t) ||^2 per row, c removes the row's mean. Kim et al. 2021 (arXiv:2105.08919).

    Both [N, V], float32 or float64; an entry that is -inf on both sides is left out of mean and sum. Returns [N], >=
    0, a sum over V (not a mean). No gradient reaches the teacher.

    `centre=False` is the plain squared distance, for numbers rather than logits (regression); unlike the centred form
    it is moved by a shift of the logits, which no probability sees. 2 V T^2 forward_kl(z / T) tends to the centred
    form as T grows. A temperature only rescales it (by 1 / T^2, which nothing multiplies back). Choose it when the
    teacher's logits say more than its saturated probabilities.
    """
    teacher_logits = teacher_logits.detach()
    dead = (student_logits == -_INF) & (teacher_logits == -_INF)
    gap = torch.where(dead, 0.0, student_logits - teacher_logits)
    if centre:
        mean = gap.sum(-1, keepdim=True) / (~dead).sum(-1, keepdim=True).clamp(min=1)
        gap = torch.where(dead, 0.0, gap - mean)
    return gap.square().sum(-1)


def total_variation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """1/2 sum_i |p_i - q_i| per row. Wen et al. 2023 (arXiv:2307.15190).

    Both [N, V], float32 or float64; -inf allowed where both have it. Returns [N], in [0, 1]: the probability that both
    answer differently under the best coupling. With a temperature T it shrinks as 1 / T, so the reduction multiplies
    it by T. No gradient reaches the teacher.

    Symmetric and bounded; its gradient does not grow with the error, so a row that is badly wrong pulls little.
    """
    student, teacher = log_probabilities(student_logits, teacher_logits)
    return 0.5 * (teacher.exp() - student.exp()).abs().sum(-1)


def alpha_beta(student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.5, beta: float = 0.5) -> Tensor:
    """sum_i (a/s p_i^s + b/s q_i^s - p_i^a q_i^b) / (a b) per row, s = a + b, a = `alpha`, b = `beta`.

    The alpha-beta divergence of Cichocki et al. 2011 (doi:10.3390/e13010134), for distillation Wang et al. 2025
    (arXiv:2505.04560). `alpha` and `beta` >= 0, not both 0; where one is 0 the limit is taken: (1, 0) is KL(p || q),
    (0, 1) is KL(q || p), (1/2, 1/2) four times the squared Hellinger distance. Both [N, V], float32 or float64; -inf
    allowed where both have it. Returns [N], >= 0. No gradient reaches the teacher.

    A larger `alpha` weighs outputs that the teacher holds likely, a larger `beta` those that the student does.
    Siblings: `forward_kl`, `reverse_kl` (its corners), `jsd`.
    """
    if alpha < 0.0 or beta < 0.0 or alpha + beta == 0.0:
        raise ValueError(f"alpha_beta: alpha is {alpha} and beta {beta}; both must be >= 0, and not both 0")
    student, teacher = log_probabilities(student_logits, teacher_logits)
    return between_powers(teacher, student, alpha, beta)
