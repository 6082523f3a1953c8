"""What numbers become in an exported file: rounded in torch as each file's own quantizer rounds them.

Values have the shape and dtype of what they were; the gradient goes straight through (Bengio, Léonard and Courville
2013, arXiv:1308.3432): every range is that of the numbers themselves, so nothing is cut off that should not learn.
Rounding what is rounded changes nothing (up to half a step, where a zero point was a tie).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 32
"""Numbers that share a scale in a file of blocks."""


def affine(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """uint8 with a zero point: 256 steps from the least to the largest number, 0 among them.

    `dims` share a scale, the others have their own. onnxruntime's weights and its DynamicQuantizeLinear.
    """
    given = _plain(values)
    low, high = given.amin(dims, keepdim=True).clamp(max=0), given.amax(dims, keepdim=True).clamp(min=0)
    if given.device.type != "mps":  # which has no float64: there a tie may go the other way
        low, high = low.double(), high.double()
    exact = _usable((high - low) / 255)
    scale, zero = exact.to(given.dtype), (-low / exact).round().clamp(0, 255).to(given.dtype)
    steps = ((given / scale).round() + zero).clamp(0, 255)
    return _straight(values, (steps - zero) * scale)


def symmetric(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """int8 from -127 to 127 without a zero point; `dims` share a scale. onnxruntime's weights of convolutions."""
    given = _plain(values)
    scale = _usable(given.abs().amax(dims, keepdim=True) / 127)
    return _straight(values, (given / scale).round().clamp(-127, 127) * scale)


def onnx_blocks(values: Tensor, bits: int) -> Tensor:
    """4 or 8 bits in blocks along the last axis, the last one filled up with zeros: onnxruntime's MatMulNBits.

    The number farthest from 0 becomes the lowest step, so that a scale may be negative.
    """
    blocks, width = _cut(_plain(values))
    lowest = -(2 ** (bits - 1))
    scale = _usable(_farthest(blocks) / lowest)
    steps = (blocks / scale).round().clamp(lowest, -lowest - 1)
    return _straight(values, _joined(steps * scale, width))


def q8_0(values: Tensor) -> Tensor:
    """GGUF's 8 bits in blocks along the last axis, whose length BLOCK divides: the scale is a half."""
    blocks, width = _cut(_plain(values))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    steps = _away(blocks / _usable(scale))
    return _straight(values, _joined(steps * scale.half().to(blocks.dtype), width))


def q4_0(values: Tensor) -> Tensor:
    """GGUF's 4 bits, likewise; the number farthest from 0 becomes the lowest step."""
    blocks, width = _cut(_plain(values))
    scale = _farthest(blocks) / -8
    steps = (blocks / _usable(scale)).add_(8.5).floor_().clamp_(0, 15).sub_(8)
    return _straight(values, _joined(steps.mul_(scale.half().to(blocks.dtype)), width))


def _straight(values: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` to the bit, with the gradient of `values`."""
    return cast("Tensor", _Straight.apply(values, rounded.to(values.dtype)))


class _Straight(torch.autograd.Function):
    """The second tensor; what comes back goes to the first."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def _plain(values: Tensor) -> Tensor:
    """Without gradient, in float32 at least: scales of 8 bits are too coarse."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


def _usable(scale: Tensor) -> Tensor:
    """Where all numbers are 0 any scale does."""
    return torch.where(scale.abs() < torch.finfo(scale.dtype).tiny, torch.ones_like(scale), scale)


def _farthest(blocks: Tensor) -> Tensor:
    """The number farthest from 0 in each block, with its sign; of two as far the first."""
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    found = torch.where(high > -low, high, low)
    tied = (high == -low).squeeze(-1)
    if tied.any():  # argmax is ten times as slow, and ties are rare
        some = blocks[tied]
        found[tied] = some.gather(-1, some.abs().argmax(-1, keepdim=True))
    return found


def _away(values: Tensor) -> Tensor:
    """Rounded to the nearest, halves away from 0, as C's roundf does."""
    return values.sign() * (values.abs() + 0.5).floor()


def _cut(values: Tensor) -> tuple[Tensor, int]:
    """[…, blocks, BLOCK], and the width of the last axis before."""
    width = values.shape[-1]
    return functional.pad(values, (0, -width % BLOCK)).unflatten(-1, (-1, BLOCK)), width


def _joined(blocks: Tensor, width: int) -> Tensor:
    return blocks.flatten(-2)[..., :width]
