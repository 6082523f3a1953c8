"""Objectives that compare the student with the teacher and treat the labelled class apart from the others.

Shape letters: N rows, V classes. p is the teacher's distribution, q the student's, y a row's label.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from attar.objectives.response.derived import divergence
from attar.objectives.response.kl import log_probabilities
from attar.objectives.supervised import require_labels

_INF = float("inf")


def dkd(
    student_logits: Tensor, teacher_logits: Tensor, *, labels: Tensor, alpha: float = 1.0, beta: float = 8.0
) -> Tensor:
    """Label and others apart: alpha KL(b_p || b_q) + beta KL(n_p || n_q) per row, in nats.

    DKD, Zhao et al. 2022 (arXiv:2203.08679). b = (p_y, 1 - p_y) says how sure a side is of the label, n is its
    distribution over the other classes. Both [N, V], float32 or float64; -inf allowed where both have it. `labels`
    int64 [N] in 0..V-1; `alpha`, `beta` >= 0. Returns [N], in [0, inf]; with V = 2 there is one other class, and the
    second part is 0. No gradient reaches the teacher. Raises TrainingError on a label outside 0..V-1.

    `forward_kl` is the same sum with alpha 1 and beta 1 - p_y, row by row: there a sure teacher mutes what it knows of
    the other classes, here it does not. Choose it for classifiers with sure teachers and correct labels. `beta` wants
    tuning: the authors take 8 on CIFAR-100 for most pairs, .5 on ImageNet. Sibling: `ofa`, a weight instead of parts.
    """
    if alpha < 0.0 or beta < 0.0:
        raise ValueError(f"dkd: alpha is {alpha} and beta {beta}; both are weights, so >= 0")
    require_labels("dkd", labels, student_logits.shape[-1])
    (sure_q, rest_q), (sure_p, rest_p) = _split(student_logits, labels), _split(teacher_logits.detach(), labels)
    return alpha * divergence(sure_p, sure_q) + beta * divergence(rest_p, rest_q)


def ofa(student_logits: Tensor, teacher_logits: Tensor, *, labels: Tensor, gamma: float = 1.0) -> Tensor:
    """-sum_c w_c log q_c per row, w = (p + y)^gamma - y with y the one-hot label, in nats.

    OFA-KD, Hao et al. 2023 (arXiv:2310.19444); `gamma` is eps in the authors' code, which takes 1 to 1.5. For one head:
    the method sums it over the logits that a projector makes of each stage, and the final ones. Both [N, V], float32 or
    float64; -inf allowed where both have it. `labels` int64 [N] in 0..V-1; `gamma` > 0. Returns [N], >= 0. No gradient
    reaches the teacher. Raises TrainingError on a label outside 0..V-1.

    A cross-entropy with weights that do not sum to 1: least at q = w / sum(w), where it is not 0 and q is not p, unless
    gamma is 1. Then it is `forward_kl` plus the teacher's entropy, of the same gradient. A larger gamma weighs the
    label more, the more so the surer the teacher is of it, and the teacher's minor classes less. Choose it where the
    architectures differ in kind, for stages as for the end. Its temperature is 1, and no power of it is made up for,
    in the authors' code. Sibling: `dkd`.
    """
    if gamma <= 0.0:
        raise ValueError(f"ofa: gamma is {gamma}; it is a power of probabilities, so > 0")
    require_labels("ofa", labels, student_logits.shape[-1])
    student, teacher = log_probabilities(student_logits, teacher_logits)
    likely = teacher.exp()
    chosen = likely.gather(-1, labels.unsqueeze(-1))
    weight = likely.pow(gamma).scatter(-1, labels.unsqueeze(-1), torch.expm1(gamma * torch.log1p(chosen)))
    return -(weight * torch.where(teacher > -_INF, student, 0.0)).sum(-1)


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (label, any other) [N, 2], and of each class given that it is not the label [N, V].

    By the log-odds of the label, so neither 1 - p_y nor its gradient is lost where p_y is nearly 1. Where every other
    class is at -inf, none of them has a probability.
    """
    position = labels.unsqueeze(-1)
    others = logits.scatter(-1, position, -_INF)
    alone = (others == -_INF).all(-1, keepdim=True)
    others = torch.where(alone, 0.0, others)
    odds = torch.where(alone, _INF, logits.gather(-1, position) - others.logsumexp(-1, keepdim=True))
    sure = torch.cat((functional.logsigmoid(odds), functional.logsigmoid(-odds)), -1)
    return sure, torch.where(alone, -_INF, others.log_softmax(-1))
