"""The one place where row objectives become a loss.

It alone owns temperature and its square, standardisation, masks, weights, chunking, finiteness and the denominator.
Kept rows are selected before anything is computed, so a masked row may hold anything, NaN included. All arithmetic is
in float32 (float64 stays float64), whatever the inputs or autocast say. For bf16 logits, loss and gradient are those
of the rounded logits, and rounding them already costs a KL of 0.01 tens of per cent; so hand over a `Projection`, or
let the head write float32.

Blocks of rows go forward and backward in one pass, inside one autograd Function: a block's logits, and all that an
objective makes of them, are gone before the next block is projected. So peak memory does not grow with N x V, for any
row function, and several terms share one set of head products. Denominators come from outside: the kept rows of the
whole step, over accumulation and processes, never a mean of means. Shape letters: N rows, V outputs or width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from attar.errors import TrainingError
from attar.logits import Gradients, Head, Logits, Needs, Projection, Rows, arithmetic
from attar.mixture import Blocks, blocks_of
from attar.objectives.reduction.share import Reduced, Share, sides
from attar.objectives.reduction.soundness import explain, sound

_BLOCK = 3 * 2**21
"""Logits of a block, for which the head products are made: 25 MB of float32, enough rows for an efficient product."""
_TILE = 2**20
"""Logits of a tile, on which objectives work: 4 MB of float32, so that what they hold stays within a cache."""


@torch.compiler.disable(reason="blocks go backward inside")  # pyright: ignore[reportUntypedFunctionDecorator]
def reduce_rows(student: Logits, shares: Sequence[Share], *, chunk_rows: int | None = None) -> Reduced:
    """Weighted sum over terms of (sum over kept rows) / count, for all terms that read the same student rows [N, V].

    `chunk_rows` rows are evaluated at a time (None: as many as make 25 MB); the result does not depend on it. With
    nothing kept the total is exactly 0 with a live graph and a zero gradient. Its backward pass runs once, and has no
    derivative of its own. Raises TrainingError on a non-finite value, naming row and token, on a function that does
    not give one value a row, and on one with parameters of its own, which would get no gradient.
    """
    for share in shares:
        _check_count(share)
    lazy = student if isinstance(student, Projection) else None
    work = _Work(tuple(shares), lazy, chunk_rows, torch.is_grad_enabled())
    parts = (student, None, None) if lazy is None else (lazy.hidden, lazy.weight, lazy.bias)
    total, *values = cast("tuple[Tensor, ...]", _InOnePass.apply(work, *parts))
    return Reduced(total=total, values=values)


@dataclass(frozen=True)
class _Work:
    shares: tuple[Share, ...]
    lazy: Projection | None
    """Says how logits come about; its tensors reach the Function as arguments, where autograd sees them."""
    chunk_rows: int | None
    differentiate: bool


class _InOnePass(torch.autograd.Function):
    """Loss and gradients in the forward pass; the backward pass only multiplies them."""

    @staticmethod
    def forward(ctx: Any, work: _Work, states: Tensor, weight: Tensor | None, bias: Tensor | None) -> Any:
        logits = states
        if work.lazy is not None and weight is not None:
            logits = replace(work.lazy, hidden=states, weight=weight, bias=bias)
        needs = Needs(*(work.differentiate and needed for needed in ctx.needs_input_grad[1:]))
        with torch.autocast(states.device.type, enabled=False):
            total, values, gradients = _evaluate(Head.of(logits), work.shares, work.chunk_rows, needs)
        dtypes = [None if part is None else part.dtype for part in (states, weight, bias)]
        ctx.gradients = [
            None if part is None or dtype is None else part.to(dtype)
            for part, dtype in zip((gradients.states, gradients.weight, gradients.bias), dtypes, strict=True)
        ]
        ctx.mark_non_differentiable(*values)
        return total, *values

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise TrainingError(
                "the loss has no second derivative (create_graph=True): its gradient is computed with its value. "
                "No objective of attar has one."
            )
        if ctx.gradients is None:
            raise TrainingError("the loss went backward already; evaluate it again (retain_graph keeps nothing here).")
        gradients, ctx.gradients = ctx.gradients, None
        if outer[0].device.type == "cpu" and outer[0].item() == 1.0:
            return None, *gradients
        return None, *(None if part is None else part.mul_(outer[0]) for part in gradients)


def _evaluate(
    head: Head, shares: Sequence[Share], chunk_rows: int | None, needs: Needs
) -> tuple[Tensor, list[Tensor], Gradients]:
    """Weighted sum, each share's mean, and the gradients of the head's parts."""
    targets = _Targets(shares)
    gradients = Gradients(head, needs)
    zero = torch.zeros((), dtype=arithmetic(head.states[:0]).dtype, device=head.states.device)
    sums, fine = [zero] * len(shares), torch.ones((), dtype=torch.bool, device=zero.device)
    width = head.states.shape[1] if head.weight is None else len(head.weight)
    blocks = list(_blocks(shares, len(head.states), chunk_rows or _rows_of(_BLOCK, width), zero.device))
    for number, rows in enumerate(blocks):
        states, raw = head.raw(rows)
        # The gradient of a projected block takes the place of its logits, tile by tile; a dense one belongs to others.
        gradient = raw if head.weight is not None or not any(needs) else torch.empty_like(raw)
        for tile in _tiles(len(raw), _rows_of(_TILE, width)):
            first = number == tile.start == 0
            leaf = raw[tile].detach().requires_grad_(any(needs))
            with torch.set_grad_enabled(any(needs)):
                block, total = head.finish(leaf), zero
                for position, share in enumerate(shares):
                    values, good = _row_values(share, block, targets.of(position, rows)[tile], _within(rows, tile))
                    if first:
                        _refuse_parameters(share.term.name, values, leaf)
                    sums[position] = sums[position] + values.detach().sum()
                    fine &= good
                    if share.count > 0 and share.term.weight:
                        total = total + share.term.weight / share.count * values.sum()
            if total.requires_grad:
                gradient[tile] = torch.autograd.grad(total, leaf)[0]
            elif any(needs):
                gradient[tile] = 0.0
        targets.forget()
        if any(needs):
            gradients.add(rows, states, gradient)
    if not bool(fine):
        _explain(head, shares, blocks, targets)
    means = [total / share.count if share.count > 0 else total for total, share in zip(sums, shares, strict=True)]
    weighted = [share.term.weight * mean for share, mean in zip(shares, means, strict=True)]
    return torch.stack([zero, *weighted]).sum(), means, gradients


class _Targets:
    """What the shares compare with, block by block; terms that read the same teacher share its projection."""

    def __init__(self, shares: Sequence[Share]) -> None:
        heads: dict[int, Blocks] = {}
        for share in shares:
            if id(share.target) not in heads:
                with torch.no_grad():
                    heads[id(share.target)] = blocks_of(share.target)
        self._heads = [heads[id(share.target)] for share in shares]
        self._blocks: dict[int, Tensor] = {}

    def of(self, position: int, rows: Rows) -> Tensor:
        """The target's rows for the share at `position`, in the arithmetic's precision."""
        head = self._heads[position]
        if id(head) not in self._blocks:
            with torch.no_grad():
                self._blocks[id(head)] = head.block(rows)
        return self._blocks[id(head)]

    def forget(self) -> None:
        """Let go of the block."""
        self._blocks.clear()


def _rows_of(logits: int, width: int) -> int:
    return max(logits // max(width, 1) // 16 * 16, 16)


def _tiles(rows: int, step: int) -> Iterator[slice]:
    """Tiles of a block; at least one, so that every function is asked."""
    for start in range(0, max(rows, 1), step):
        yield slice(start, min(start + step, rows))


def _within(rows: Rows, tile: slice) -> Rows:
    """The batch's rows of a tile of the block `rows`."""
    if isinstance(rows, slice):
        return slice(rows.start + tile.start, rows.start + tile.stop)
    return rows[tile]


def _blocks(shares: Sequence[Share], rows: int, step: int, device: torch.device) -> Iterator[Rows]:
    """Blocks of the rows that at least one term keeps; at least one block, so that every function is asked."""
    masks = [share.keep for share in shares if share.keep is not None]
    index = None
    if masks and len(masks) == len(shares):
        index = torch.stack(masks).any(0).nonzero().squeeze(1).to(device)
    kept = rows if index is None else len(index)
    for start in range(0, max(kept, 1), step):
        chunk = slice(start, min(start + step, kept))
        yield chunk if index is None else index[chunk]


def _row_values(share: Share, block: Tensor, target: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """A share's values of one block, [n], and whether they are sound."""
    student, target, given, _ = sides(share, block, target, rows)
    values = share.term.function(student, target, **given)
    if values.shape != student.shape[:1]:
        raise TrainingError(
            f"{share.term.name}: the objective gave shape {list(values.shape)} for {len(student)} rows; a row "
            f"objective gives [{len(student)}]. Sum over the last dimension only, and leave the mean to the reduction."
        )
    good = sound(student, target, values, same_outputs=not share.term.listed)
    return values * share.term.temperature**share.term.temperature_power, good


def _refuse_parameters(name: str, values: Tensor, leaf: Tensor) -> None:
    """Only the student's rows receive a gradient here; another leaf behind the values would silently get none."""
    seen: set[Any] = set()
    stack: list[Any] = [values.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and variable is not leaf:
            raise TrainingError(
                f"{name}: the function reads a tensor {list(variable.shape)} that wants a gradient and would get none. "
                "A row objective is a function of its arguments; apply what is learned before."
            )
        stack += [earlier for earlier, _ in node.next_functions]


def _explain(head: Head, shares: Sequence[Share], blocks: Sequence[Rows], targets: _Targets) -> None:
    """Go through the blocks once more, without gradients, to say where a value stopped being finite."""
    with torch.no_grad():
        for rows in blocks:
            block = head.block(rows)
            for position, share in enumerate(shares):
                student, target, given, inner = sides(share, block, targets.of(position, rows), rows)
                values, same_outputs = share.term.function(student, target, **given), not share.term.listed
                explain(share.term.name, student, target, values, rows, inner, same_outputs=same_outputs)
            targets.forget()


def _check_count(share: Share) -> None:
    if share.count <= 0 and len(share.target) and (share.keep is None or bool(share.keep.any())):
        raise ValueError(f"{share.term.name}: the step's count is {share.count}, but this micro-batch keeps rows")
