"""Where a value stopped being finite: the row, the token, and what to do about it.

Shape letters: n rows of a block, V outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.errors import TrainingError
from attar.logits import Rows

_INF = float("inf")


def sound(student: Tensor, target: Tensor, values: Tensor, *, same_outputs: bool) -> Tensor:
    """Whether a term's values of a block are beyond suspicion, as a bool tensor: nothing waits for it.

    `same_outputs`: where both have the same shape, the target's columns are the student's.
    """
    finite = torch.isfinite(values).all()
    if not same_outputs or student.shape != target.shape:
        return finite
    student = student.detach()
    if student.device.type == "cpu" and bool((student.amin(-1) > -_INF).all()):
        return finite
    return finite & ~((student == -_INF) & (target > -_INF)).any()


def explain(
    name: str,
    student: Tensor,
    target: Tensor,
    values: Tensor,
    rows: Rows,
    inner: Tensor | None,
    *,
    same_outputs: bool,
) -> None:
    """Raise the TrainingError that says where a value stopped being finite; pass if -inf stands on both sides only.

    `rows` are the block's rows in the batch, `inner` (bool) those of them that the term keeps; None: all.
    `same_outputs` as in `sound`.
    """

    def place(row: int) -> str:
        where = torch.arange(row + 1, device=student.device) if inner is None else inner.nonzero().squeeze(1)
        local = int(where[row])
        return f"{name}: row {local + rows.start if isinstance(rows, slice) else int(rows[local])}"

    student, target = (side.flatten(1) if side.dim() > 2 else side for side in (student, target))
    if same_outputs and student.shape == target.shape:
        one_sided = (student == -_INF) & (target > -_INF)
        if bool(one_sided.any()):
            row, token = one_sided.nonzero()[0].tolist()
            raise TrainingError(
                f"{place(row)}: the student's logit of token {token} is -inf, but the teacher gives it probability "
                f"(logit {float(target[row, token]):.4g}). Mask the same tokens on both sides, or match vocabularies."
            )
    broken = ~torch.isfinite(values)
    if not bool(broken.any()):
        return
    row = int(broken.nonzero()[0, 0])
    for side, numbers in (("student", student), ("target", target)):
        odd = numbers[row].isnan() | (numbers[row] == _INF)
        if bool(odd.any()):
            token = f" at token {int(odd.nonzero()[0, 0])}" if numbers.dim() > 1 else ""
            raise TrainingError(
                f"{place(row)}: the {side} is {float(numbers[row][odd][0].detach())}{token}. Lower the learning rate, "
                "train in fp32, or check the model and its inputs."
            )
    raise TrainingError(
        f"{place(row)}: the value is {float(values[row].detach())} though no input is NaN: one side has a token at "
        "-inf that the other needs (for hard labels: the label itself). Mask the same tokens on both sides."
    )
