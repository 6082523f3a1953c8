"""What bf16 rounds on a CPU, and that nothing else is touched."""

import pytest
import torch

from attar.precision import as_in_training, rounded_products
from tiny_language import tiny_bpe, tiny_llama


def test_products_are_rounded_inside_the_block_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact, plain = left.double() @ right.double(), left @ right
    with rounded_products(True):
        inside = left @ right
    assert inside.dtype is torch.float32
    rounded = left.bfloat16().double() @ right.bfloat16().double()
    error = (inside.double() - exact).norm() / exact.norm()
    assert error < 1e-6 or torch.allclose(inside.double(), rounded, atol=1e-4)  # as the CPU can
    assert error < 0.005
    assert torch.equal(left @ right, plain)
    with rounded_products(False):
        assert torch.equal(left @ right, plain)


def test_an_error_leaves_nothing_behind() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ZeroDivisionError), rounded_products(True):
        _ = 1 / 0
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # pyright: ignore[reportAttributeAccessIssue]


def test_a_model_writes_in_trainings_precision_for_the_block_alone() -> None:
    model = tiny_llama(tiny_bpe(["a cat sees a dog"] * 9, size=270), layers=2)
    ids = torch.tensor([[5, 6, 7, 8]])

    def said() -> torch.Tensor:
        with torch.inference_mode():
            return model(input_ids=ids).logits

    exact = said()
    with as_in_training("fp32", [model], "cpu"):
        assert torch.equal(said(), exact)
    with as_in_training("bf16", [model], "cpu"):
        rounded = said()
    assert rounded.dtype is torch.float32
    assert not torch.equal(rounded, rounded.bfloat16().float()), "its head is not rounded"
    error = (rounded - exact).norm() / exact.norm()
    assert 0 < error < 0.02
    assert torch.equal(said(), exact)
