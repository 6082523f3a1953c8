"""Divergences from or to a mixture of teacher and student, which stays finite where a plain KL would explode.

Shape letters: N rows, V outputs (classes or tokens). p is the teacher's distribution, q the student's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.objectives.response.kl import divergence, log_probabilities

_INF = float("inf")


def jsd(student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon divergence, beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.

    GKD, Agarwal et al. 2023 (arXiv:2306.13649). Both [N, V], float32 or float64; -inf allowed where both have it.
    `beta` in 0..1 is the teacher's share of the mixture. Returns [N] in nats, in [0, H(beta)] with H(0.5) = log 2. No
    gradient reaches the teacher.

    beta 0 gives KL(p || q) and beta 1 gives KL(q || p), the limits of JSD / beta and JSD / (1 - beta). JSD itself is
    discontinuous there: close to 0 and 1 its value and gradient vanish, so keep beta well inside, or at an end.
    Bounded, hence calm where a divergence would explode. Siblings: `forward_kl`, `reverse_kl`.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"jsd: beta is {beta}; it is the teacher's share of the mixture, so 0 <= beta <= 1")
    student, teacher = log_probabilities(student_logits, teacher_logits)
    if beta == 0.0:
        return divergence(teacher, student)
    if beta == 1.0:
        return divergence(student, teacher)
    mixture = log_mixture(teacher, student, beta)
    return beta * divergence(teacher, mixture) + (1.0 - beta) * divergence(student, mixture)


def skew_kl(student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q) per row, in nats. DistiLLM, Ko et al. 2024 (arXiv:2402.03898).

    `alpha` in [0, 1) is the teacher's share of the mixture; 0 is `forward_kl`. Both [N, V], float32 or float64; -inf
    allowed where both have it. Returns [N], in [0, -log alpha]. No gradient reaches the teacher.

    Bounded where `forward_kl` is not, with a calmer gradient on rows that the student gets badly wrong. Siblings:
    `skew_reverse_kl`, `jsd` (both directions to one mixture).
    """
    _require_share("skew_kl", alpha)
    student, teacher = log_probabilities(student_logits, teacher_logits)
    return divergence(teacher, student if alpha == 0.0 else log_mixture(teacher, student, alpha))


def skew_reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1) -> Tensor:
    """KL(q || (1 - alpha) p + alpha q) per row, in nats. DistiLLM, Ko et al. 2024 (arXiv:2402.03898).

    `alpha` in [0, 1) is the student's share of the mixture; 0 is `reverse_kl`. Both [N, V], float32 or float64; -inf
    allowed where both have it. Returns [N], in [0, -log alpha]. The gradient also passes through the mixture (DistiLLM
    2 holds it constant there). No gradient reaches the teacher.

    Bounded where `reverse_kl` is not: mass where the teacher has none costs at most -log alpha. Siblings: `skew_kl`,
    `jsd`.
    """
    _require_share("skew_reverse_kl", alpha)
    student, teacher = log_probabilities(student_logits, teacher_logits)
    return divergence(student, teacher if alpha == 0.0 else log_mixture(teacher, student, 1.0 - alpha))


def _require_share(name: str, alpha: float) -> None:
    if not 0.0 <= alpha < 1.0:
        raise ValueError(f"{name}: alpha is {alpha}; it is a share of the mixture that leaves some, so 0 <= alpha < 1")


def log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q), exactly log p where both agree, with a finite gradient where both are 0."""
    dead = (log_p == -_INF) & (log_q == -_INF)
    log_p, log_q = log_p.masked_fill(dead, 0.0), log_q.masked_fill(dead, 0.0)
    above = log_q >= log_p
    high, low = torch.where(above, log_q, log_p), torch.where(above, log_p, log_q)
    drop = torch.expm1(low - high)
    return high + torch.log1p(torch.where(above, share * drop, (1.0 - share) * drop))
