"""What `training.precision` rounds, and what it leaves in float32."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By what recipes call a precision."""


def has_bf16() -> bool:
    """Does this machine's CPU multiply in bfloat16 itself? Taken for granted where torch does not tell: off x86."""
    told = getattr(torch.cpu, "get_capabilities", dict[str, Any])()
    return told.get("architecture") != "x86_64" or bool(told["amx_bf16"] or told["avx512_bf16"])


def computed_in(precision: str, device: str) -> str:
    """What `training.precision` is computed in on `device`: on a CPU without bf16 (see `has_bf16`) it is float32.

    Such a CPU would imitate it, at a quarter of float32's speed and with fewer digits.
    """
    return "fp32" if precision == "bf16" and device == "cpu" and not has_bf16() else precision


@contextmanager
def rounded_products(on: bool) -> Generator[None]:
    """Let products of float32 matrices on a CPU round what they multiply to bfloat16, as CPUs with AMX do faster.

    They are still summed and written in float32: a small KL keeps its digits. CPUs without such instructions go on in
    float32. For the time of the block only, and of the whole process; without `on` nothing changes.
    """
    products: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = products.fp32_precision
    try:
        if on:
            products.fp32_precision = "bf16"
        yield
    finally:
        if on:
            products.fp32_precision = before


@contextmanager
def as_in_training(precision: str, models: Sequence[Any], device: str) -> Generator[None]:
    """Let language models of Transformers write in the precision (`training.precision`) in which students learn.

    Their heads give float32 all the same, as rounded logits would often tie. For the time of the block only; nothing
    changes in fp32, and where bf16 is computed in it (`computed_in`).
    """
    if computed_in(precision, torch.device(device).type) == "fp32":
        yield
        return
    with ExitStack() as undo:
        undo.enter_context(torch.autocast(torch.device(device).type, DTYPES[precision]))
        for model in models:
            undo.enter_context(full_precision_heads([model], model.get_output_embeddings().out_features))
        undo.enter_context(rounded_products(precision == "bf16"))
        yield


@contextmanager
def full_precision_heads(models: list[nn.Module], outputs: int) -> Generator[None]:
    """Let the heads write float32 under autocast: rounded to bf16, logits spoil the gradient of a small KL.

    A model's head is its last `nn.Linear` with `outputs` outputs, if there is one. For the time of the block only.
    """
    with ExitStack() as undo:
        for model in models:
            linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
            for head in [part for part in linear if part.out_features == outputs][-1:]:
                head.forward = _float32(head)
                undo.callback(head.__dict__.pop, "forward")
        yield


def _float32(layer: nn.Linear) -> Any:
    def forward(states: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            return functional.linear(states.float(), layer.weight, layer.bias)

    return forward
