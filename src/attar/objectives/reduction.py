"""The one place where row objectives become a loss.

It alone owns temperature and its square, standardisation, masks, weights, chunking, finiteness and the denominator.
Kept rows are selected before anything is computed, so a masked row may hold anything, NaN included. All arithmetic is
in float32 (float64 stays float64), whatever the inputs or autocast say. Precision of what comes in is another matter:
for bf16 logits, loss and gradient are those of the rounded logits, and rounding them already costs a KL of 0.01 tens
of per cent; so heads should write float32.

Denominators come from outside: the kept rows of the whole step, over accumulation and processes, never a mean of
means. Every row objective is asked block by block through `_take` and `_row_values`; what logits are made of is known
to `_take` alone. Shape letters: N rows, V outputs or width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.errors import TrainingError
from attar.objectives.transform import standardise_logits

RowFunction = Callable[[Tensor, Tensor], Tensor]
"""(student rows [n, V], target rows [n, ...]) -> [n]. Targets are the teacher's rows, or labels. n may be 0."""

_INF = float("inf")
_Rows = slice | Tensor


@dataclass(frozen=True)
class RowTerm:
    """A row objective and what the reduction applies to it."""

    name: str
    function: RowFunction
    weight: float = 1.0
    temperature: float = 1.0
    """Both sides are divided by it."""
    temperature_power: int = 0
    """Multiply by this power of it, so that the gradient keeps its size: 2 for KL and its like, 1 for distances."""
    standardise: bool = False
    """Z-score both sides first."""


@dataclass(frozen=True)
class Share:
    """One term's share in a micro-batch: what it compares the student's rows with, which rows, and its denominator."""

    term: RowTerm
    target: Tensor
    """[N, ...]; never receives a gradient."""
    keep: Tensor | None
    """bool [N]; None keeps all rows."""
    count: float
    """Kept rows of the whole step (all micro-batches, all processes)."""


@dataclass(frozen=True)
class Reduced:
    """`total`: the weighted sum, a scalar with its graph. `values`: each share's sum / count, unweighted, detached."""

    total: Tensor
    values: list[Tensor]


def reduce_rows(student: Tensor, shares: Sequence[Share], *, chunk_rows: int | None = None) -> Reduced:
    """Weighted sum over terms of (sum over kept rows) / count, for all terms that read the same student rows [N, V].

    `chunk_rows` rows are evaluated at a time (None: all); the result does not depend on it. With nothing kept the
    total is exactly 0 with a live graph and a zero gradient. Raises TrainingError on a non-finite value, naming row
    and token, and on a function that does not give one value a row.
    """
    with torch.autocast(student.device.type, enabled=False):
        nothing = arithmetic(student[:0]).sum()
        sums = [nothing] * len(shares)
        for rows in _chunks(shares, len(student), chunk_rows, student.device):
            block = arithmetic(_take(student, rows))
            for position, share in enumerate(shares):
                inner = None if share.keep is None else share.keep[rows]
                values = _row_values(share, block, rows, inner)
                sums[position] = sums[position] + values.sum()
        means = [_mean(total, share) for total, share in zip(sums, shares, strict=True)]
        weighted = [share.term.weight * mean for share, mean in zip(shares, means, strict=True)]
        return Reduced(total=torch.stack(weighted).sum() if weighted else nothing, values=[m.detach() for m in means])


def arithmetic(values: Tensor) -> Tensor:
    """Floating values in the reduction's precision: float32, or float64 where they have it. Labels stay as they are."""
    return values.float() if values.is_floating_point() and values.dtype is not torch.float64 else values


def _take(values: Tensor, rows: _Rows) -> Tensor:
    return values[rows]


def _chunks(shares: Sequence[Share], rows: int, chunk_rows: int | None, device: torch.device) -> Iterator[_Rows]:
    """Blocks of the rows that at least one term keeps; at least one block, so that every term has a graph."""
    masks = [share.keep for share in shares if share.keep is not None]
    index = None
    if masks and len(masks) == len(shares):
        index = torch.stack(masks).any(0).nonzero().squeeze(1).to(device)
    kept = rows if index is None else len(index)
    step = chunk_rows or max(kept, 1)
    for start in range(0, max(kept, 1), step):
        chunk = slice(start, start + step)
        yield chunk if index is None else index[chunk]


def _row_values(share: Share, block: Tensor, rows: _Rows, inner: Tensor | None) -> Tensor:
    term = share.term
    target = arithmetic(share.target.detach()[rows])
    student = block if inner is None else block[inner]
    target = target if inner is None else target[inner]
    if len(student) != len(target):
        raise TrainingError(f"{term.name}: {len(student)} student rows, but {len(target)} target rows")
    if term.standardise:
        student, target = standardise_logits(student), standardise_logits(target)
    if term.temperature != 1.0:
        student, target = student / term.temperature, target / term.temperature
    values = term.function(student, target)
    if values.shape != student.shape[:1]:
        raise TrainingError(
            f"{term.name}: the objective gave shape {list(values.shape)} for {len(student)} rows; a row objective "
            f"gives [{len(student)}]. Sum over the last dimension only, and leave the mean to the reduction."
        )
    if not bool(_sound(student, target, values)):
        _explain(term.name, student, target, values, rows, inner)
    return values * term.temperature**term.temperature_power


def _sound(student: Tensor, target: Tensor, values: Tensor) -> Tensor:
    sound = torch.isfinite(values).all()
    return sound & (student.detach().amin(-1) > -_INF).all() if student.shape == target.shape else sound


def _explain(name: str, student: Tensor, target: Tensor, values: Tensor, rows: _Rows, inner: Tensor | None) -> None:
    """Raise the TrainingError that says where a value stopped being finite; pass if -inf stands on both sides only."""

    def place(row: int) -> str:
        where = torch.arange(row + 1, device=student.device) if inner is None else inner.nonzero().squeeze(1)
        local = int(where[row])
        return f"{name}: row {local + rows.start if isinstance(rows, slice) else int(rows[local])}"

    if student.shape == target.shape:
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


def _mean(total: Tensor, share: Share) -> Tensor:
    if share.count > 0:
        return total / share.count
    if len(share.target) and (share.keep is None or bool(share.keep.any())):
        raise ValueError(f"{share.term.name}: the step's count is {share.count}, but this micro-batch keeps rows")
    return total
