"""Objectives on whom an embedding resembles: the distribution of its similarities to other embeddings.

Similarities are cosines, which no reduction can temper from outside: these functions take the temperatures themselves.
Shape letters: N rows, M rows of a queue, D_s and D_t the student's and the teacher's width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.objectives.directions import unit
from attar.objectives.response import forward_kl

_TEMPERATURE = 0.04
_FEWEST = 2


def similarity_distribution(
    student: Tensor,
    teacher: Tensor,
    *,
    student_queue: Tensor,
    teacher_queue: Tensor,
    student_temperature: float = _TEMPERATURE,
    teacher_temperature: float = _TEMPERATURE,
) -> Tensor:
    """KL(p || q) per row, p = softmax_m cos(t, t_m) / T_t and q = softmax_m cos(s, s_m) / T_s, m over a queue.

    CompRess, Koohpayegani et al. 2020 (arXiv:2010.14713): each side looks into a queue of its own embeddings of the
    same M earlier rows, `student_queue` [M, D_s] and `teacher_queue` [M, D_t], so widths need not agree. SEED, Fang et
    al. 2021 (arXiv:2101.04731): both look into the teacher's queue, given twice (D_s = D_t, by a projector if need
    be), with the row's own teacher embedding in it. `student` [N, D_s], `teacher` [N, D_t], float32 or float64;
    returns [N] in nats, >= 0, and 0 at M <= 1. No gradient reaches the teacher or a queue.

    Temperatures > 0 divide cosines; the default is CompRess' (SEED's code: 0.2 for the student). No factor of theirs is
    multiplied back: the gradient grows as 1 / T_s. Unequal ones ask for another sharpness than the teacher's, and the
    value is not 0 at s = t. SEED minimises the cross-entropy, which differs by the teacher's entropy. Choose it to keep
    neighbourhoods rather than coordinates; siblings: `cosine_distance` (coordinates), `batch_similarity_distribution`.
    """
    ours = unit(student) @ unit(student_queue.detach()).mT
    theirs = unit(teacher.detach()) @ unit(teacher_queue.detach()).mT
    return forward_kl(ours / student_temperature, theirs / teacher_temperature)


def batch_similarity_distribution(
    student: Tensor,
    teacher: Tensor,
    *,
    student_temperature: float = _TEMPERATURE,
    teacher_temperature: float = _TEMPERATURE,
) -> Tensor:
    """Mean over rows of `similarity_distribution` with the batch as queue, each row's self left out: a batch objective.

    [N, D_s] and [N, D_t], float32 or float64; returns a scalar in nats, >= 0. 0 with a live graph at N <= 2, where no
    row has two others to choose from. The gradient passes through both ends of a similarity; none reaches the teacher.

    Sees the local batch alone, and a row's copy is one more row to resemble, so doubling the batch changes the value.
    Unmoved by a factor or rotation of either side. Choose it over the queue where batches are large; siblings:
    `similarity_preserving` and `cka`, which compare all similarities alike, where this one weighs the nearest.
    """
    if len(student) < _FEWEST:
        return student[:0].sum()
    itself = torch.eye(len(student), dtype=torch.bool, device=student.device)
    ours, theirs = unit(student), unit(teacher.detach())
    similarities = ours @ ours.mT / student_temperature, theirs @ theirs.mT / teacher_temperature
    return forward_kl(*(side.masked_fill(itself, -float("inf")) for side in similarities)).mean()
