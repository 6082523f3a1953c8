"""Objectives on dense logits: how far the student's answer is from the teacher's, one value a row.

Each is a pure function of logits: no temperature, no mask, no mean. `reduction.py` owns those, for every objective
alike. Shape letters: N rows, V outputs (classes or tokens). p is the teacher's distribution, q the student's.
"""

from __future__ import annotations

import torch
from torch import Tensor

_INF = float("inf")


def forward_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(p || q) = sum_i p_i (log p_i - log q_i) per row, in nats. Hinton et al. 2015 (arXiv:1503.02531).

    Both [N, V], float32 or float64; -inf allowed where both have it (0 log 0 = 0). Returns [N], in [0, inf]: 0 where
    the distributions agree, inf where q is 0 and p is not. No gradient reaches the teacher.

    Mode-covering: the student must put mass wherever the teacher does. The default; choose `reverse_kl` when a small
    student should rather be right on the teacher's main answer than spread over all of them, `jsd` for what lies
    between, `logit_mse` when the teacher is so sure of itself that its probabilities say little.
    """
    student, teacher = _log_probabilities(student_logits, teacher_logits)
    return _kl(teacher, student)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(q || p) = sum_i q_i (log q_i - log p_i) per row, in nats. MiniLLM, Gu et al. 2023 (arXiv:2306.08543).

    Both [N, V], float32 or float64; -inf allowed where both have it. Returns [N], in [0, inf]: 0 where the
    distributions agree, inf where p is 0 and q is not. No gradient reaches the teacher.

    Mode-seeking: the student is punished for mass where the teacher has none, and may drop the teacher's minor modes.
    Siblings: `forward_kl` (mode-covering), `jsd` (between the two).
    """
    student, teacher = _log_probabilities(student_logits, teacher_logits)
    return _kl(student, teacher)


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
    student, teacher = _log_probabilities(student_logits, teacher_logits)
    if beta == 0.0:
        return _kl(teacher, student)
    if beta == 1.0:
        return _kl(student, teacher)
    mixture = _log_mixture(teacher, student, beta)
    return beta * _kl(teacher, mixture) + (1.0 - beta) * _kl(student, mixture)


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


def _log_probabilities(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    return student_logits.log_softmax(-1), teacher_logits.detach().log_softmax(-1)


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q), exactly log p where both agree, with a finite gradient where both are 0."""
    dead = (log_p == -_INF) & (log_q == -_INF)
    log_p, log_q = log_p.masked_fill(dead, 0.0), log_q.masked_fill(dead, 0.0)
    above = log_q >= log_p
    high, low = torch.where(above, log_q, log_p), torch.where(above, log_p, log_q)
    drop = torch.expm1(low - high)
    return high + torch.log1p(torch.where(above, share * drop, (1.0 - share) * drop))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of rows of log-probabilities. The gap is masked before it is multiplied: 0 log 0 has a gradient, 0."""
    gap = torch.where(log_p > -_INF, log_p - log_q, 0.0)
    value = (log_p.exp() * gap).sum(-1)
    return value + (value.clamp(min=0.0) - value).detach().nan_to_num(
        0.0
    )  # rounding may end at -1e-8; the gradient stays
