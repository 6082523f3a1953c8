"""Logits that are not there yet: hidden states and a head, projected a few rows at a time.

Shape letters: N rows, V outputs (tokens), D width, n rows of a block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from attar.errors import TrainingError

Rows = slice | Tensor
"""Which rows of a batch: a slice, or int64 [n]."""


@dataclass(frozen=True)
class Projection:
    """softcap(scale * (hidden @ weight^T + bias)) with softcap(z) = cap tanh(z / cap): logits [N, V] as their parts.

    The reduction projects them block by block and gives gradients to `hidden`, `weight` and `bias`, where these want
    one. In bfloat16 or float16 the product is still written in float32. Raises TrainingError where shapes don't fit.
    """

    hidden: Tensor
    """[N, D]: the last hidden state, after the final norm."""
    weight: Tensor
    """[V, D]: the head, or the tied embeddings."""
    bias: Tensor | None = None
    """[V]."""
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.hidden.dim() != 2 or self.weight.dim() != 2 or self.hidden.shape[1] != self.weight.shape[1]:
            raise TrainingError(
                f"a projection needs hidden [N, D] and weight [V, D]; got {list(self.hidden.shape)} and "
                f"{list(self.weight.shape)}. Flatten batch and tokens into rows first."
            )
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise TrainingError(f"the head's bias is {list(self.bias.shape)}, but its weight {list(self.weight.shape)}")

    def __len__(self) -> int:
        return len(self.hidden)

    @property
    def width(self) -> int:
        """V."""
        return len(self.weight)

    def dense(self) -> Tensor:
        """All logits at once, [N, V]; for small batches and for tests."""
        return Head.of(self).block(slice(None))


Logits = Tensor | Projection
"""Dense logits [N, V], or their parts."""


@dataclass(frozen=True)
class Head:
    """How rows of logits come about; a dense tensor is its own states, with no weight."""

    states: Tensor
    weight: Tensor | None = None
    """In the arithmetic's precision on a CPU, where it is cast once; as it is elsewhere."""
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, logits: Logits) -> Head:
        """The head behind `logits`."""
        if isinstance(logits, Tensor):
            return cls(logits)
        return cls(logits.hidden, _castable(logits.weight), logits.bias, logits.scale, logits.softcap)

    def detach(self) -> Head:
        """The same, cut off from gradients."""
        cut = (None if part is None else part.detach() for part in (self.weight, self.bias))
        weight, bias = cut
        return replace(self, states=self.states.detach(), weight=weight, bias=bias)

    def raw(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Of the rows: their states as they are, and hidden @ weight^T + bias, [n, V] float32 or float64."""
        states = self.states[rows]
        if self.weight is None:
            return states, arithmetic(states)
        product = _product(states, self.weight.t())
        return states, product if self.bias is None else product.add_(arithmetic(self.bias))

    def finish(self, raw: Tensor) -> Tensor:
        """Scale and softcap."""
        logits = raw if self.scale == 1.0 else raw * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def block(self, rows: Rows) -> Tensor:
        """Finished logits of the rows, [n, V]."""
        return self.finish(self.raw(rows)[1])


class Needs(NamedTuple):
    """Which parts of a head want a gradient."""

    states: bool
    weight: bool
    bias: bool


class Gradients:
    """Gradients of a head's parts, summed up block by block, of which there is at least one (it may have no rows);
    weight and bias in the arithmetic's precision.
    """

    def __init__(self, head: Head, needs: Needs) -> None:
        self._head = head
        self.states = torch.zeros_like(head.states) if needs.states else None
        self.weight = None if head.weight is None or not needs.weight else _empty(head.weight)
        self._is_empty = True
        """Whether nothing was added to `weight` yet."""
        self.bias = None if head.bias is None or not needs.bias else _empty(head.bias).zero_()

    def add(self, rows: Rows, states: Tensor, gradient: Tensor) -> None:
        """Add what `gradient` [n, V], of the raw product of `rows`, means for each part."""
        if self.states is not None:
            weight = self._head.weight
            self.states[rows] = (gradient if weight is None else _product(gradient, weight)).to(self.states.dtype)
        if self.weight is not None:
            self.weight.addmm_(gradient.t(), states.to(self.weight.dtype), beta=0.0 if self._is_empty else 1.0)
            self._is_empty = False
        if self.bias is not None:
            self.bias += gradient.sum(0)


def arithmetic(values: Tensor) -> Tensor:
    """Floating values in the reduction's precision: float32, or float64 where they have it. Labels stay as they are."""
    return values.float() if values.is_floating_point() and values.dtype is not torch.float64 else values


def _castable(weight: Tensor) -> Tensor:
    return arithmetic(weight) if weight.device.type == "cpu" else weight


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Left @ right with a float32 result whatever comes in: a cast after a bf16 product has lost the digits before."""
    if right.dtype in (torch.bfloat16, torch.float16) and right.device.type == "cuda":
        return torch.mm(left.to(right.dtype), right, out_dtype=torch.float32)
    return arithmetic(left) @ arithmetic(right)


def _empty(like: Tensor) -> Tensor:
    dtype = torch.float64 if like.dtype is torch.float64 else torch.float32
    return torch.empty(like.shape, dtype=dtype, device=like.device)
