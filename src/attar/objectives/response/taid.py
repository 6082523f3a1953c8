"""A teacher that starts where the student is and moves away from it as training goes on.

Shape letters: N rows, V outputs (classes or tokens). p is the teacher's distribution, q the student's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.objectives.response.derived import divergence_of_logits

_INF = float("inf")


def taid(student_logits: Tensor, teacher_logits: Tensor, *, progress: float | Tensor) -> Tensor:
    """KL(p_t || q) per row, p_t = softmax((1 - t) z_s + t z_t), t = `progress`, in nats.

    TAID, Shing et al. 2025 (arXiv:2501.16937). Both [N, V], float32 or float64; -inf allowed where both have it; an
    entry that is -inf on one side has no share in p_t. `progress` is a number, or a tensor of one, in 0..1; where it
    comes from is the business of `schedules.py`. Returns [N], in [0, inf]. p_t is held constant in the gradient, which
    is q - p_t; none reaches the teacher. (The authors' code leaves out the entropy of p_t: same gradient, other value.)

    At t = 1 it is `forward_kl`, at t = 0 it asks for nothing; so it grows with t and shrinks with learning, and values
    at two t do not compare. Choose it where the teacher is much larger than the student and `forward_kl` asks too much
    of it too soon. Sibling: `skew_kl`, whose fixed mixture is one of probabilities, in the student's place.
    """
    if not isinstance(progress, Tensor) and not 0.0 <= progress <= 1.0:
        raise ValueError(f"taid: progress is {progress}; it leads from the student (0) to the teacher (1)")
    gone = (student_logits == -_INF) | (teacher_logits == -_INF)
    with torch.no_grad():
        near, far = (side.to(student_logits.dtype).masked_fill(gone, 0.0) for side in (student_logits, teacher_logits))
        target = torch.lerp(near, far, progress).masked_fill(gone, -_INF)
    return divergence_of_logits(target, student_logits)
