"""What objectives learn with the student: convolutions drawn from a generator of their own, used in full precision.

They neither read nor move the global random state, and do not depend on what else is trained. `terms/layers.py` makes
the linear projectors. Shape letters: N rows, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.hashing import hash_value
from attar.logits import arithmetic


def own_generator(seed: int, name: str) -> torch.Generator:
    """A generator on the CPU that depends on `seed` and `name` alone."""
    return torch.Generator().manual_seed(int(hash_value([seed, name]), 16) % 2**63)


def make_convolution(
    channels: int, outputs: int, size: int, *, seed: int, name: str, bias: bool = False, slope: float = math.sqrt(5)
) -> nn.Conv2d:
    """A convolution of odd `size` that keeps the map's size, as torch initialises it from its own generator.

    `slope` is that of the leaky ReLU which Kaiming's uniform initialisation reckons with.
    """
    generator = own_generator(seed, name)
    made = nn.utils.skip_init(nn.Conv2d, channels, outputs, size, padding=size // 2, bias=bias)
    convolution = cast("nn.Conv2d", made)
    nn.init.kaiming_uniform_(convolution.weight, a=slope, generator=generator)
    if convolution.bias is not None:
        bound = 1.0 / math.sqrt(channels * size**2)
        nn.init.uniform_(convolution.bias, -bound, bound, generator=generator)
    return convolution


def convolve(maps: Tensor, convolution: nn.Conv2d) -> Tensor:
    """[N, C, H, W] -> [N, C', H, W] in the reduction's precision, whatever autocast says."""
    with torch.autocast(maps.device.type, enabled=False):
        full = arithmetic(maps)
        bias = None if convolution.bias is None else convolution.bias.to(full.dtype)
        return functional.conv2d(full, convolution.weight.to(full.dtype), bias, padding=convolution.padding)
