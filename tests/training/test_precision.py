"""What bf16 rounds on a CPU, and that nothing else is touched."""

import pytest
import torch

from attar.training.precision import rounded_products


def test_products_are_rounded_inside_the_block_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact, plain = left.double() @ right.double(), left @ right
    with rounded_products(True):
        inside = left @ right
    assert inside.dtype is torch.float32
    rounded = left.bfloat16().double() @ right.bfloat16().double()
    is_plain, is_rounded = torch.equal(inside, plain), torch.allclose(inside.double(), rounded, atol=1e-4)
    assert is_plain or is_rounded  # as the CPU can
    assert (inside.double() - exact).norm() / exact.norm() < 0.005
    assert torch.equal(left @ right, plain)
    with rounded_products(False):
        assert torch.equal(left @ right, plain)


def test_an_error_leaves_nothing_behind() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ZeroDivisionError), rounded_products(True):
        _ = 1 / 0
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # pyright: ignore[reportAttributeAccessIssue]
