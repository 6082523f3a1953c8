"""Quantization-aware training: the student answers with the numbers that its exported file will have.

Nothing is added to the student. For the time of a forward pass its weights are replaced by what they are rounded to,
and what goes into its products is rounded on the way; optimizer, checkpoints and what is saved hold plain weights. No
range is learned or remembered: each is that of the numbers at hand, as the exporter takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from attar.errors import PlanError
from attar.facts import QuantizationFacts
from attar.recipe.quantization import QuantizationSpec
from attar.students.convolutional import CONVOLUTIONS, is_convolutional
from attar.training import grids

Grid = Callable[[Tensor], Tensor]
Found = TypeVar("Found")
_PRODUCTS = (functional.linear, functional.conv1d, functional.conv2d, functional.conv3d)
_POOLS = (functional.adaptive_avg_pool2d, functional.avg_pool2d, functional.max_pool2d)
_SUMS = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__)


@dataclass(frozen=True)
class _Weight:
    """One parameter, by the first of its names."""

    name: str
    numbers: int
    grid: Grid


class Rounding:
    """What is rounded in a student, and how; for a student of one structure, whatever its weights.

    `language`: whether it is exported as language models are. Raises PlanError where there is nothing to round.
    """

    def __init__(self, student: nn.Module, spec: QuantizationSpec, *, language: bool) -> None:
        self.spec = spec
        found = _blocks(student, spec.precision) if language else None
        self.activations: Literal["row", "batch"] | None = None
        if not language:
            self.activations = "batch" if is_convolutional(student) else "row"
        if self.activations is not None:
            found = _static(student) if self.activations == "batch" else _dynamic(student)
        self._weights = _once(student, found or iter(()))
        if not self._weights:
            raise PlanError(
                f"training.quantization: {type(student).__name__} has no matrix that {spec.precision} rounds (linear "
                "layers, convolutions and embeddings are). Remove it."
            )

    def apply(self, student: nn.Module, act: Callable[[nn.Module], Found]) -> Found:
        """`act` on the student while it computes with rounded numbers. Gradients go to its own weights."""
        own = dict(student.named_parameters())
        rounded = {f"student.{one.name}": one.grid(own[one.name]) for one in self._weights}
        with nullcontext() if self.activations is None else _Activations(self.activations):
            return cast("Found", functional_call(_Holder(student), rounded, (act,)))

    def settle(self, student: nn.Module) -> None:
        """Put the rounded numbers into the student for good: what is saved is what the file holds."""
        own = dict(student.named_parameters())
        with torch.no_grad():
            for one in self._weights:
                own[one.name].copy_(one.grid(own[one.name]))

    def facts(self) -> QuantizationFacts:
        """For the record."""
        return QuantizationFacts(
            precision=self.spec.precision, start=self.spec.start, activations=self.activations,
            numbers=sum(one.numbers for one in self._weights),
        )  # fmt: skip


class _Activations(TorchFunctionMode):
    """Rounds what goes into products, by its range in each row; or in the batch, and then also what is added or pooled:
    a static file holds every tensor between two operators in 8 bits.
    """

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by_batch = by == "batch"

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _PRODUCTS or (self.by_batch and func in _POOLS):
            args = (self._rounded(args[0]), *args[1:])
        elif self.by_batch and func in _SUMS and all(isinstance(one, Tensor) and one.dim() > 2 for one in args):
            func, args = torch.add, tuple(self._rounded(one) for one in args)
        return func(*args, **(kwargs or {}))

    def _rounded(self, values: Tensor) -> Tensor:
        return grids.affine(values, tuple(range(0 if self.by_batch else 1, values.dim())))


class _Holder(nn.Module):
    """A student whose weights can be replaced while something is done with it."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, act: Callable[[nn.Module], Any]) -> Any:
        return act(self.student)


def _static(student: nn.Module) -> Iterator[tuple[nn.Module, Grid]]:
    """One scale an output channel, without a zero point."""
    for part in student.modules():
        if isinstance(part, (nn.Linear, *CONVOLUTIONS)):
            yield part, partial(grids.symmetric, dims=tuple(range(1, part.weight.dim())))


def _dynamic(student: nn.Module) -> Iterator[tuple[nn.Module, Grid]]:
    """One scale an output of a linear layer; one for a whole table of embeddings or a convolution."""
    for part in student.modules():
        match part:
            case nn.Linear():
                yield part, partial(grids.affine, dims=(1,))
            case Conv1D():
                yield part, partial(grids.affine, dims=(0,))
            case nn.Embedding():
                yield part, partial(grids.affine, dims=(0, 1))
            case nn.Conv1d() | nn.Conv2d() | nn.Conv3d() if part.groups == 1:
                yield part, partial(grids.affine, dims=tuple(range(part.weight.dim())))
            case _:
                pass


def _blocks(student: nn.Module, precision: str) -> Iterator[tuple[nn.Module, Grid]]:
    """Blocks along what a layer reads; in 4 bits embeddings and head keep 8."""
    head = cast("Any", student).get_output_embeddings()
    for part in student.modules():
        if not isinstance(part, nn.Linear | nn.Embedding | Conv1D):
            continue
        wide = precision in ("int8", "q8_0") or part is head or isinstance(part, nn.Embedding)
        match precision:
            case "int8" | "int4":
                grid: Grid = partial(grids.onnx_blocks, bits=8 if wide else 4)
            case _:
                if part.weight.shape[-1] % grids.BLOCK:
                    continue  # the file keeps it in 16 bits
                grid = grids.q8_0 if wide else grids.q4_0
        yield part, partial(_turned, grid) if isinstance(part, Conv1D) else grid


def _turned(grid: Grid, weight: Tensor) -> Tensor:
    return grid(weight.T).T


def _once(student: nn.Module, found: Iterator[tuple[nn.Module, Grid]]) -> list[_Weight]:
    """Each parameter once, by name: tied weights stand in the file once."""
    names = {id(p): name for name, p in student.named_parameters()}
    kept: dict[str, _Weight] = {}
    for part, grid in found:
        weight = cast("Tensor", part.weight)
        name = names[id(weight)]
        kept.setdefault(name, _Weight(name, weight.numel(), grid))
    return list(kept.values())
