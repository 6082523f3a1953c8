"""Floating-point operations of one forward pass, counted by torch's own dispatcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class Flops(NamedTuple):
    """`value` is None where the count failed; then `note` says why."""

    value: int | None
    note: str | None


def count_flops(model: nn.Module, inputs: Mapping[str, Tensor]) -> Flops:
    """Multiply-adds times two of matrix products, convolutions and attention for one batch of inputs, in eval mode.

    Element-wise work (activations, normalisation) is not counted. The model is left in the mode it came in.
    """
    was_training = model.training
    model.eval()
    try:
        # The counter does not know the fused attention of CPUs; the plain one is matrix products.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(**inputs)
    except Exception as error:  # any model may refuse the counter's dispatch mode, each in its own way
        return Flops(None, f"not counted: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    finally:
        model.train(was_training)
    total = int(counter.get_total_flops())
    return Flops(total, None) if total else Flops(None, "not counted: no matrix product or convolution was seen")
