"""Transforms of logits that compose with any response objective; `reduction/` applies them to both sides.

Shape letters: N rows, V outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.errors import TrainingError

_EPSILON = 1e-7
_FEWEST = 3


def standardise_logits(logits: Tensor) -> Tensor:
    """Z-score of each row, (z - mean) / (1e-7 + std). Sun et al. 2024 (arXiv:2403.01427).

    [N, V] -> [N, V], float32 or float64. Mean and standard deviation (divisor V - 1, as in the authors' code) run
    over the row's finite entries; -inf stays -inf. A constant row has no scale: it becomes 0 and its gradient is that
    of z - mean.

    The student then has to match the teacher's order and relative gaps, not its scale, so an objective on standardised
    logits is 0 also where z_s = a z_t + b with a > 0. Two outputs would keep only their order and pass no gradient.
    Raises TrainingError where V < 3.
    """
    if logits.shape[-1] < _FEWEST:
        raise TrainingError(
            f"standardise: rows of {logits.shape[-1]} logits have no shape left after a z-score (it needs at least "
            f"{_FEWEST} outputs). Remove `standardise` from the objective."
        )
    finite = logits > -float("inf")
    count = finite.sum(-1, keepdim=True)
    centred = torch.where(finite, logits, 0.0)
    centred = torch.where(finite, centred - centred.sum(-1, keepdim=True) / count, 0.0)
    variance = centred.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    constant = variance <= _EPSILON**2
    scale = torch.where(constant, 1.0, variance).sqrt() + torch.where(constant, 0.0, _EPSILON)
    return torch.where(finite, centred / scale, logits)
