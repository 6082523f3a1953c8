"""Divergences from or to a mixture of teacher and student, which stays finite where a plain KL would explode.

Shape letters: N rows, V outputs (classes or tokens). p is the teacher's distribution, q the student's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.objectives.response.derived import to_mixture
from attar.objectives.response.kl import forward_kl, log_probabilities, reverse_kl


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
    if beta == 0.0:
        return forward_kl(student_logits, teacher_logits)
    if beta == 1.0:
        return reverse_kl(student_logits, teacher_logits)
    student, teacher = log_probabilities(student_logits, teacher_logits)
    return to_mixture(teacher, student, share=beta, of_p=beta, of_q=1.0 - beta)


def skew_kl(student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q) per row, in nats. DistiLLM, Ko et al. 2024 (arXiv:2402.03898).

    `alpha` in [0, 1) is the teacher's share of the mixture; 0 is `forward_kl`. Both [N, V], float32 or float64; -inf
    allowed where both have it. Returns [N], in [0, -log alpha]. No gradient reaches the teacher.

    Bounded where `forward_kl` is not, with a calmer gradient on rows that the student gets badly wrong. Siblings:
    `skew_reverse_kl`, `jsd` (both directions to one mixture).
    """
    _require_share("skew_kl", alpha)
    if alpha == 0.0:
        return forward_kl(student_logits, teacher_logits)
    student, teacher = log_probabilities(student_logits, teacher_logits)
    return to_mixture(teacher, student, share=alpha, of_p=1.0, of_q=0.0)


def skew_reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1) -> Tensor:
    """KL(q || (1 - alpha) p + alpha q) per row, in nats. DistiLLM, Ko et al. 2024 (arXiv:2402.03898).

    `alpha` in [0, 1) is the student's share of the mixture; 0 is `reverse_kl`. Both [N, V], float32 or float64; -inf
    allowed where both have it. Returns [N], in [0, -log alpha]. The gradient also passes through the mixture (DistiLLM
    2 holds it constant there). No gradient reaches the teacher.

    Bounded where `reverse_kl` is not: mass where the teacher has none costs at most -log alpha. Siblings: `skew_kl`,
    `jsd`.
    """
    _require_share("skew_reverse_kl", alpha)
    if alpha == 0.0:
        return reverse_kl(student_logits, teacher_logits)
    student, teacher = log_probabilities(student_logits, teacher_logits)
    return to_mixture(teacher, student, share=1.0 - alpha, of_p=0.0, of_q=1.0)


def contrastive_skew(
    student_logits: Tensor, teacher_logits: Tensor, *, on_policy: Tensor, alpha: float | Tensor = 0.1
) -> Tensor:
    """`skew_kl` on the teacher's text, and on the student's own KL(q || (1 - alpha) p + alpha sg[q]) per row, in nats.

    DistiLLM-2, Ko et al. 2025 (arXiv:2503.07067). `on_policy` bool [N]: the row is text that the student wrote. `alpha`
    in (0, 1), a number or [N], is the share in the mixture of the side whose text it is; the authors adapt it response
    by response, between 0.01 and 0.1. Both [N, V], float32 or float64; -inf allowed where both have it. Returns [N], in
    [0, -log alpha]. No gradient reaches the teacher.

    sg: the authors' code holds q constant in the mixture of student rows, and so does this; in `skew_reverse_kl` it
    moves, which takes a part of the gradient back. The teacher's text pulls the student up where the teacher is, its
    own pushes it down where it alone is: choose it when texts of both come in pairs. Siblings: `skew_kl`,
    `skew_reverse_kl`.
    """
    if not isinstance(alpha, Tensor) and not 0.0 < alpha < 1.0:
        raise ValueError(f"contrastive_skew: alpha is {alpha}; both sides are in the mixture, so 0 < alpha < 1")
    student, teacher = log_probabilities(student_logits, teacher_logits)
    share = torch.as_tensor(alpha, dtype=student.dtype, device=student.device).detach()
    share = torch.where(on_policy, 1.0 - share, share).unsqueeze(-1)
    own = on_policy.unsqueeze(-1).to(student.dtype)
    return to_mixture(teacher, student, share=share, of_p=1.0 - own, of_q=own, held=True)


def _require_share(name: str, alpha: float) -> None:
    if not 0.0 <= alpha < 1.0:
        raise ValueError(f"{name}: alpha is {alpha}; it is a share of the mixture that leaves some, so 0 <= alpha < 1")
