"""Objectives that give one value for a whole micro-batch: what the reduction is for rows, this is for them.

They see the kept rows of the local micro-batch, all at once and dense. A step's value is the mean over its
micro-batches, weighted by their kept rows; it is not that of one big batch. Shape letters: N rows, V outputs or width.
"""

from __future__ import annotations

import torch

from attar.errors import TrainingError
from attar.logits import Logits, Projection, arithmetic
from attar.mixture import dense
from attar.objectives.reduction.share import Reduced, Share, sides


def reduce_batch(student: Logits, share: Share) -> Reduced:
    """The share's value on its kept rows, times weight and (kept rows / count). Student and target are [N, ...].

    A projection is made dense: N x V is held. With nothing kept the total is exactly 0 with a live graph and a zero
    gradient. Raises TrainingError on a value that is not one finite number.
    """
    term = share.term
    device = student.hidden.device if isinstance(student, Projection) else student.device
    with torch.autocast(device.type, enabled=False):
        rows = arithmetic(student.dense() if isinstance(student, Projection) else student)
        with torch.no_grad():
            target = arithmetic(dense(share.target).detach())
        ours, theirs, given, _ = sides(share, rows, target, slice(None))
        nothing = rows[:0].sum()
        if not len(ours):
            return Reduced(nothing, [nothing.detach()])
        if share.count <= 0:
            raise ValueError(f"{term.name}: the step's count is {share.count}, but this micro-batch keeps rows")
        value = term.function(ours, theirs, **given)
        if value.dim():
            raise TrainingError(f"{term.name}: a batch objective gives one number, but this gave {list(value.shape)}.")
        if not bool(torch.isfinite(value)):
            raise TrainingError(
                f"{term.name}: the value is {float(value.detach())} on {len(ours)} rows. Lower the learning rate, "
                "train in fp32, or check the model and its inputs."
            )
        value = value * (term.temperature**term.temperature_power * len(ours) / share.count)
        return Reduced(nothing + term.weight * value, [value.detach()])
