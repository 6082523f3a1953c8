"""Weights as a few bits each: levels at equal distances on a log scale, a step for each token.

A weight at depth d, in nats below its token's origin, becomes level d / step, rounded; the last level is a weight of 0.
The grid reaches as far down as the token's smallest weight, but `DEEPEST` nats at most, and the step is the smallest
of 256 that does it. Shape letters: N weights, T tokens.
"""

from __future__ import annotations

import numpy as np

DEEPEST = 20.0
"""Nats: what is less likely than e^-20 (2e-9) of the origin becomes that likely, or 0 where chance decides."""
FEWEST_BITS, MOST_BITS = 2, 8
_FINEST, _PER_OCTAVE = 2.0**-12, 16


def check_bits(bits: int) -> int:
    """`bits`, if a level may have that many. Raises ValueError."""
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"bits is {bits}; a level has {FEWEST_BITS} to {MOST_BITS}")
    return bits


def step_codes(deepest: np.ndarray, bits: int) -> np.ndarray:
    """The step of each token, as uint8 [T], for weights down to `deepest` [T], in nats below the origin."""
    smallest = np.minimum(deepest, DEEPEST) / lowest(bits)
    codes = np.ceil(_PER_OCTAVE * np.log2(np.maximum(smallest, _FINEST) / _FINEST) - 1e-9)
    return codes.astype(np.uint8)


def steps_of(codes: np.ndarray) -> np.ndarray:
    """Steps in nats, float32 [T]."""
    return np.exp2(codes / np.float32(_PER_OCTAVE)).astype(np.float32) * np.float32(_FINEST)


def lowest(bits: int) -> int:
    """The last level that is not 0; the one after it is."""
    return (1 << bits) - 2


def nearest(depths: np.ndarray, steps: np.ndarray, bits: int) -> np.ndarray:
    """Levels uint8 [N] of weights at these depths (inf: a weight of 0): within half a step, as far as the grid goes.

    What lies deeper takes the lowest level, so that nothing possible becomes impossible.
    """
    there = np.minimum(np.rint(depths / steps), lowest(bits))
    return np.where(np.isinf(depths), lowest(bits) + 1, there).astype(np.uint8)


def unbiased(depths: np.ndarray, steps: np.ndarray, bits: int, uniforms: np.ndarray) -> np.ndarray:
    """Levels uint8 [N], one of the two about each weight, such that the mean over `uniforms` in [0, 1) is the weight.

    The mean is that of the weight, not of its logarithm: the upper of weights a > w > b comes with probability
    (w - b) / (a - b).
    """
    places = depths / steps
    upper = np.clip(np.floor(places), 0, lowest(bits))
    with np.errstate(under="ignore"):
        weight = np.exp(-(places - upper) * steps)
        below = np.where(upper < lowest(bits), np.exp(-steps), 0.0)
    return (upper + (uniforms * (1.0 - below) >= weight - below)).astype(np.uint8)


def depths_of(levels: np.ndarray, steps: np.ndarray, bits: int) -> np.ndarray:
    """Depths float32 [N], in nats below the origin; inf for a weight of 0."""
    depths = levels * steps
    depths[levels > lowest(bits)] = np.inf
    return depths
