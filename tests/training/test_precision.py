"""What bf16 rounds on a CPU, and that nothing else is touched."""

import pytest
import torch

from attar import precision
from attar.precision import as_in_training, computed_in, has_bf16, rounded_products
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


@pytest.mark.parametrize(
    ("told", "has"),
    [
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": False}, True),
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": False}, False),
        ({"architecture": "aarch64"}, True),
        ({}, True),
    ],
    ids=["AVX-512", "AMX", "neither", "ARM", "torch does not tell"],
)
def test_bf16_is_computed_in_float32_where_the_cpu_would_imitate_it(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, object], has: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told)
    assert has_bf16() is has
    assert computed_in("bf16", "cpu") == ("bf16" if has else "fp32")
    assert computed_in("bf16", "cuda:0") == "bf16"
    assert computed_in("fp16", "cuda") == "fp16"
    assert computed_in("fp32", "cpu") == "fp32"


def test_a_model_writes_in_trainings_precision_for_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
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
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    with as_in_training("bf16", [model], "cpu"):
        assert torch.equal(said(), exact)
    assert torch.equal(said(), exact)
