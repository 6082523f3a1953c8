"""Contrastive representation distillation: a row's two embeddings find each other among those of other rows.

Shape letters: N rows, B buffered negatives, D_s and D_t the student's and the teacher's width, E the embeddings' width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.objectives.directions import unit
from attar.objectives.learned import own_generator
from attar.objectives.terms.layers import make_projector, project

_TEMPERATURE = 0.07
_WIDTH = 128


def crd(
    student: Tensor,
    teacher: Tensor,
    *,
    student_negatives: Tensor | None = None,
    teacher_negatives: Tensor | None = None,
    temperature: float = _TEMPERATURE,
) -> Tensor:
    """Noise-contrastive loss of both sides' embeddings: a batch objective. CRD, Tian et al. 2019 (arXiv:1910.10699).

    1/N sum_i (-log h_ii - sum_j log(1 - h_ij)), i over N anchors of the student and N of the teacher, j over the K
    negatives of each: the other side's other rows and its buffered negatives. h = e^c / (e^c + K m), c the cosine of
    both embeddings / `temperature` and m the mean of e^c over all negatives, held constant in the gradient: h is the
    probability that a pair belongs together rather than being one of K drawn at random.

    [N, E] each, float32 or float64, of any length but 0; negatives [B, E], without a gradient. Returns a scalar >= 0,
    which is not 0 where both sides agree; with no negatives (N < 2 and no buffer) it is 0 with a live graph. The
    gradient reaches both sides' embeddings, as both have a learned head (`ContrastiveHeads`, which detaches the
    teacher's features).

    It differs from the paper, where negatives are drawn from a memory of every row of the data set and m is set from
    the first batch: here they are the batch's own rows, which carry gradients, and a queue of earlier ones; m follows
    the batch. A copy of a row stands among its negatives, so doubling the batch changes the value. Sees the local
    batch alone. Choose it for features rather than logits; siblings: `rkd_distance` and `cka`, which need no heads.
    """
    ours, theirs = unit(student), unit(teacher)
    to_teacher = _with_negatives(theirs, teacher_negatives)
    to_student = _with_negatives(ours, student_negatives)
    loss = _contrast(ours @ to_teacher.mT / temperature) + _contrast(theirs @ to_student.mT / temperature)
    return loss / max(len(student), 1)


class ContrastiveHeads(nn.Module):
    """What `crd` learns: one linear head a side, [N, D_s] -> [N, E] and [N, D_t] -> [N, E], and a queue of negatives.

    The queue holds the last `negatives` embeddings of each side (0: the batch's own rows only), at first random
    directions; training puts each batch into it after use. It is checkpointed. Heads and queue are drawn from `seed`
    and `name`, without touching the global random state.
    """

    def __init__(
        self, student_width: int, teacher_width: int, *, seed: int, name: str, width: int = _WIDTH, negatives: int = 0
    ) -> None:
        super().__init__()
        self.student_head = make_projector(student_width, width, seed=seed, name=f"{name}.student")
        self.teacher_head = make_projector(teacher_width, width, seed=seed, name=f"{name}.teacher")
        generator = own_generator(seed, f"{name}.negatives")
        for side in ("student_negatives", "teacher_negatives"):
            self.register_buffer(side, unit(torch.randn(negatives, width, generator=generator)))

    def forward(self, student: Tensor, teacher: Tensor, *, temperature: float = _TEMPERATURE) -> Tensor:
        """`crd` of the embeddings of both sides' features, [N, ...] each; no gradient reaches the teacher's."""
        ours = project(student.flatten(1), self.student_head)
        theirs = project(teacher.detach().flatten(1), self.teacher_head)
        queues = [self.get_buffer(f"{side}_negatives") for side in ("student", "teacher")]
        loss = crd(
            ours,
            theirs,
            student_negatives=queues[0].to(ours.dtype),
            teacher_negatives=queues[1].to(theirs.dtype),
            temperature=temperature,
        )
        if self.training:
            for queue, embeddings in zip(queues, (ours, theirs), strict=True):
                queue.copy_(torch.cat([unit(embeddings.detach()).to(queue), queue])[: len(queue)])
        return loss


def _with_negatives(rows: Tensor, negatives: Tensor | None) -> Tensor:
    return rows if negatives is None else torch.cat([rows, unit(negatives.detach())])


def _contrast(scores: Tensor) -> Tensor:
    """Sum over anchors; scores [N, N + B] whose diagonal are the pairs that belong together."""
    count = max(scores.shape[1] - 1, 0)
    own = torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    if not count or not len(scores):
        return 0.0 * scores.sum()
    noise = scores.detach()[~own].logsumexp(0) - math.log(len(scores))  # log(K m)
    odds = scores - noise
    return -functional.logsigmoid(odds[own]).sum() - functional.logsigmoid(-odds[~own]).sum()
