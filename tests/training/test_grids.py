"""Rounding as exported files do it, held to the quantizers of onnxruntime and of the gguf library."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization import quant_utils
from torch import Tensor

from attar.export.decoder_weights import BLOCK, _nbits
from attar.training import grids

GRIDS: dict[str, Callable[[Tensor], Tensor]] = {
    "affine": lambda values: grids.affine(values, (1,)),
    "symmetric": lambda values: grids.symmetric(values, (1,)),
    "blocks of 8 bits": lambda values: grids.onnx_blocks(values, 8),
    "blocks of 4 bits": lambda values: grids.onnx_blocks(values, 4),
    "q8_0": grids.q8_0,
    "q4_0": grids.q4_0,
}
STEPS = {"affine": 255, "symmetric": 254, "blocks of 8 bits": 255, "blocks of 4 bits": 15, "q8_0": 254, "q4_0": 15}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_onnxruntime(values: np.ndarray, kind: int, symmetric: bool) -> np.ndarray:
    """One scale for all of `values`, through onnxruntime's quantizer of weights."""
    zero, scale, steps = quant_utils.quantize_data(values.ravel(), kind, symmetric)
    return ((steps.astype(np.float64) - int(zero)) * float(scale)).reshape(values.shape)


@pytest.mark.parametrize(("kind", "symmetric"), [(2, False), (3, True)], ids=["uint8", "int8"])
def test_a_scale_is_that_of_onnxruntime(kind: int, symmetric: bool) -> None:
    values = drawn(6, 50) * torch.tensor([1e-3, 0.1, 1.0, 10.0, 0.0, 1.0])[:, None]
    values[5] = values[5].abs() + 2  # 0 belongs to every range
    rows = [by_onnxruntime(row, kind, symmetric) for row in values.numpy()]
    made = (grids.symmetric if symmetric else grids.affine)(values, (1,))
    np.testing.assert_allclose(made, np.stack(rows), rtol=1e-5, atol=1e-9)
    whole = (grids.symmetric if symmetric else grids.affine)(values, (0, 1))
    np.testing.assert_allclose(whole, by_onnxruntime(values.numpy(), kind, symmetric), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("bits", [8, 4])
def test_blocks_are_those_of_matmulnbits(bits: int) -> None:
    values = drawn(7, 80)
    values[2] = 0
    config = _nbits().DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
    quantizer = _nbits().DefaultWeightOnlyQuantizer(config)
    packed, scales, _ = quantizer.qbits_block_quant(np.ascontiguousarray(values.numpy().T))
    steps = packed if bits == 8 else np.stack([packed & 15, packed >> 4], -1).reshape(7, -1, BLOCK)
    theirs = (steps.astype(np.float64) - 2 ** (bits - 1)) * scales[..., None]
    np.testing.assert_allclose(grids.onnx_blocks(values, bits), theirs.reshape(7, -1)[:, :80], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_blocks_are_those_of_gguf_to_the_bit(name: str) -> None:
    values, kind = drawn(9, 64), gguf.GGMLQuantizationType[name.upper()]
    values[3] = 0
    values[4:] = (values[4:] * 2).round()  # of two numbers as far from 0 the first gives the scale
    theirs = gguf.quants.dequantize(gguf.quants.quantize(values.numpy(), kind), kind)
    assert np.array_equal(GRIDS[name](values).numpy(), theirs)


@pytest.mark.parametrize("name", GRIDS)
@given(seed=st.integers(0, 1 << 30), rows=st.integers(1, 4), blocks=st.integers(1, 3), size=st.floats(-3, 3))
def test_rounding_is_settled_near_and_finite(name: str, seed: int, rows: int, blocks: int, size: float) -> None:
    """Rounded numbers stay as they are; none moves by more than a step (half a step, but for what clipping costs)."""
    values = drawn(rows, 32 * blocks, seed=seed) * 10**size
    once = GRIDS[name](values)
    spread = 2 * values.abs().amax(1, keepdim=True)
    assert bool(((GRIDS[name](once) - once).abs() <= 1e-5 * spread).all())
    assert bool(((once - values).abs() <= 1.01 * spread / STEPS[name] + 1e-3 * spread).all())
    assert bool(once.isfinite().all())


@pytest.mark.parametrize("name", GRIDS)
def test_the_gradient_goes_straight_through(name: str) -> None:
    """That of the rounded value is given to the value, as if rounding were not there."""
    values, weights = drawn(4, 64).requires_grad_(), drawn(4, 64).double()
    rounded = GRIDS[name](values)
    (rounded.double().square() * weights).sum().backward()
    assert values.grad is not None
    expected = 2 * rounded.detach().double() * weights
    torch.testing.assert_close(values.grad, expected.float(), rtol=1e-6, atol=0)


def test_half_precision_is_rounded_by_scales_of_full_precision() -> None:
    values = drawn(8, 64)
    made = grids.affine(values.bfloat16(), (1,))
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, grids.affine(values.bfloat16().float(), (1,)).bfloat16())
