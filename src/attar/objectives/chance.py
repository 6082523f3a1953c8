"""Random numbers that belong to a row of a step: the same however rows are cut into blocks, micro-batches, processes.

Each is a hash of what it is for, so nothing is stored, a resumed run repeats it, and no generator's state is read or
moved. Shape letters: N rows, S samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.hashing import hash_value

_GOLDEN = -0x61C8864680B583EB
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""SplitMix64's constants as signed integers (Steele et al. 2014): 2^64 / the golden ratio, and both multipliers."""
_DIGITS = 53


def row_keys(rows: Tensor, *, seed: int, name: str, progress: float) -> Tensor:
    """A key for each row, int64 [N] -> int64 [N].

    `rows` are numbers that tell the training's rows apart, `name` the use, `progress` (0..1) the step.
    """
    start = int(hash_value([seed, name, progress]), 16) % 2**63
    return _mixed(rows.long() * _GOLDEN + start)


def uniforms(keys: Tensor, samples: int) -> Tensor:
    """`samples` numbers in [0, 1) for each key [N]: float64 [N, S] (float32 on a device without it)."""
    steps = torch.arange(1, samples + 1, device=keys.device) * _GOLDEN
    bits = _shifted(_mixed(keys.unsqueeze(-1) + steps), 64 - _DIGITS)
    if keys.device.type == "mps":
        return _shifted(bits, _DIGITS - 24).float() * 2.0**-24
    return bits.double() * 2.0**-_DIGITS


def _mixed(values: Tensor) -> Tensor:
    """SplitMix64's output function; int64 products wrap around as unsigned ones do."""
    values = (values ^ _shifted(values, 30)) * _FIRST
    values = (values ^ _shifted(values, 27)) * _SECOND
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, by: int) -> Tensor:
    """To the right, with zeros from the left as for unsigned numbers."""
    return (values >> by) & ((1 << (64 - by)) - 1)
