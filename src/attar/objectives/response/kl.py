"""Kullback-Leibler divergences between the student's and the teacher's distributions, and mixes of both directions.

Shape letters: N rows, V outputs (classes or tokens). p is the teacher's distribution, q the student's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.objectives.response.derived import divergence, divergence_of_logits, weighed_directions

_INF = float("inf")


def forward_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(p || q) = sum_i p_i (log p_i - log q_i) per row, in nats. Hinton et al. 2015 (arXiv:1503.02531).

    Both [N, V], float32 or float64; -inf allowed where both have it (0 log 0 = 0). Returns [N], in [0, inf]: 0 where
    the distributions agree, inf where q is 0 and p is not. No gradient reaches the teacher.

    Mode-covering: the student must put mass wherever the teacher does. The default; choose `reverse_kl` when a small
    student should rather be right on the teacher's main answer than spread over all of them, `jsd` for what lies
    between, `logit_mse` when the teacher is so sure of itself that its probabilities say little.
    """
    return divergence_of_logits(teacher_logits.detach(), student_logits)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(q || p) = sum_i q_i (log q_i - log p_i) per row, in nats. MiniLLM, Gu et al. 2023 (arXiv:2306.08543).

    Both [N, V], float32 or float64; -inf allowed where both have it. Returns [N], in [0, inf]: 0 where the
    distributions agree, inf where p is 0 and q is not. No gradient reaches the teacher.

    Mode-seeking: the student is punished for mass where the teacher has none, and may drop the teacher's minor modes.
    Siblings: `forward_kl` (mode-covering), `jsd` (between the two).
    """
    student, teacher = log_probabilities(student_logits, teacher_logits)
    return divergence(student, teacher)


def adaptive_kl(student_logits: Tensor, teacher_logits: Tensor, *, head: float = 0.5) -> Tensor:
    """Both directions, w KL(p || q) + (1 - w) KL(q || p) per row, in nats. AKL, Wu et al. 2024 (arXiv:2404.02657).

    w is the share of sum_i |p_i - q_i| that lies in the teacher's head: its likeliest outputs that together hold at
    most `head` (0..1) of its probability, and the first one in any case. w is held constant in the gradient, and 1/2
    where p = q. Both [N, V], float32 or float64; -inf allowed where both have it. Returns [N], in [0, inf].

    Forward KL learns a head fast and reverse KL a tail; this leans to the one whose part is worse. It sorts V outputs,
    so it is slower than `forward_kl`. Sibling: `todi`, a weight per output instead of one per row.
    """
    if not 0.0 <= head <= 1.0:
        raise ValueError(f"adaptive_kl: head is {head}; it is a share of the teacher's probability, so 0 <= head <= 1")
    student, teacher = log_probabilities(student_logits, teacher_logits)
    with torch.no_grad():
        likeliest, order = teacher.exp().sort(-1, descending=True)
        gap = (likeliest - student.exp().gather(-1, order)).abs()
        in_head = likeliest.cumsum(-1) <= head
        in_head[..., :1] = True
        total = gap.sum(-1)
        weight = torch.where(total > 0, torch.where(in_head, gap, 0.0).sum(-1) / total, 0.5)
    return weight * divergence(teacher, student) + (1.0 - weight) * divergence(student, teacher)


def todi(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """sum_i w_i p_i log(p_i / q_i) + (1 - w_i) q_i log(q_i / p_i) per row, w_i = sigmoid(log p_i - log q_i), in nats.

    ToDi, Jung et al. 2025 (arXiv:2505.16297); w is held constant in the gradient, as in the authors' code. Both [N,
    V], float32 or float64; -inf allowed where both have it. Returns [N], in [0, inf]: 0 where the distributions agree,
    inf where one is 0 and the other is not.

    The value is Jeffreys' divergence KL(p || q) + KL(q || p), as w_i p_i - (1 - w_i) q_i = p_i - q_i. Its gradient is
    not: outputs that the student underrates are pulled up as by `forward_kl`, those that it overrates pushed down as
    by `reverse_kl`. Sibling: `adaptive_kl`, one weight a row.
    """
    student, teacher = log_probabilities(student_logits, teacher_logits)
    return weighed_directions(teacher, student)


def log_probabilities(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides' log-probabilities, student first, [N, V] each; none of the teacher's has a gradient."""
    return student_logits.log_softmax(-1), teacher_logits.detach().log_softmax(-1)
