"""Objectives on how the rows of a batch lie to one another."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from attar.objectives.relation import ContrastiveHeads, cka, crd, rkd_angle, rkd_distance, similarity_preserving
from objectives.laws.batch import BatchEntry

SIMILARITY = ("student_scale", "teacher_scale", "student_move", "teacher_move")
CONTRASTIVE = {
    "divergence": "a row's embeddings are told apart from a finite number of others, whatever both sides say",
    "duplication": "a row's copy stands among its negatives",
}
HELD = {"finite_differences": "the noise is held constant in the gradient; checked for crd of embeddings"}
QUEUE = {"lone_row": "one row is still told apart from the queue"}


def embedded(student: Tensor, teacher: Tensor) -> Tensor:
    return crd(student, teacher.detach(), temperature=0.5)


def embedded_with_noise_held(student: Tensor, teacher: Tensor, held: Tensor) -> Tensor:
    """By another way: the binary cross-entropy of every pair, once an anchor, with the noise among `held`."""
    ours, theirs, then = (functional.normalize(side, dim=-1) for side in (student, teacher.detach(), held))
    together = torch.eye(len(student), dtype=student.dtype)
    weight = ((then @ theirs.mT) / 0.5).exp()
    noise = (weight.sum() - weight.diagonal().sum()) / len(student)
    score = ((ours @ theirs.mT) / 0.5).exp()
    return 2 * functional.binary_cross_entropy(score / (score + noise), together, reduction="sum") / len(student)


def with_heads(queue: int) -> ContrastiveHeads:
    return ContrastiveHeads(7, 4, seed=0, name="crd", width=5, negatives=queue).eval()


RELATIONS = [
    *[
        BatchEntry(kind, f"{kind} of width {width}", function, invariances=SIMILARITY, teacher_width=width)
        for kind, function in (("cka", cka), ("rkd_distance", rkd_distance), ("rkd_angle", rkd_angle))
        for width in (7, 4)
    ],
    *[
        BatchEntry(
            "similarity_preserving",
            f"similarity_preserving of width {width}",
            similarity_preserving,
            {"duplication": "there are N unit rows and the sum is divided by N^2, so the value falls as 1 / N"},
            invariances=("student_scale", "teacher_scale"),
            teacher_width=width,
        )
        for width in (7, 4)
    ],
    BatchEntry(
        "crd",
        "crd of embeddings",
        embedded,
        CONTRASTIVE,
        invariances=("student_scale", "teacher_scale"),
        frozen=embedded_with_noise_held,
    ),
    BatchEntry("crd", "crd with heads", with_heads(0), CONTRASTIVE | HELD, teacher_width=4),
    BatchEntry("crd", "crd with a queue", with_heads(3), CONTRASTIVE | HELD | QUEUE, teacher_width=4),
]
