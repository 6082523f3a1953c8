"""Weights that divide the gradient, instead of the sum: a probe before the first step finds a factor for each.

Published weights run from 1e-3 to 3e4, as the losses that they multiply have no common size. Balanced, a weight says
which share of the gradient a term has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attar.errors import TrainingError


def balance_factors(weights: Mapping[str, float], norms: Mapping[str, float]) -> dict[str, float]:
    """Factors f_i with which the products f_i w_i n_i are in proportion to the weights w_i, and add up as w_i n_i did.

    `weights` > 0 by term, `norms` n_i of each term's gradient at weight 1. So f_i = c / n_i with c = sum w n / sum w,
    and the size of the whole gradient stays about as it was. Raises TrainingError, naming every term whose norm is 0 or
    not finite: no factor makes such a term as strong as the others.
    """
    broken = [name for name in weights if not (math.isfinite(norms[name]) and norms[name] > 0)]
    if broken:
        told = ", ".join(f"{name} ({norms[name]:g})" for name in broken)
        raise TrainingError(
            f"training.balance: before the first step the gradient of {told} has no size that a factor could balance. "
            "Take the objective out, give it more rows (labels), or set balance: off."
        )
    common = sum(weight * norms[name] for name, weight in weights.items()) / sum(weights.values())
    return {name: common / norms[name] for name in weights}


class Balance(nn.Module):
    """The factors of one training, by term; empty until they are found. They are part of the checkpoint."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)
        """Of the terms that take part: the largest that each is over the training."""
        self.norms: dict[str, float] = {}
        self.factors: dict[str, float] = {}

    def take(self, norms: Mapping[str, float]) -> None:
        """Set the factors. Raises TrainingError as `balance_factors`."""
        self.norms = {name: norms[name] for name in self.weights}
        self.factors = balance_factors(self.weights, self.norms)

    def get_extra_state(self) -> Tensor:
        """For `state_dict`: the norms, in full precision."""
        return torch.tensor([self.norms[name] for name in self.weights if self.norms], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """From `load_state_dict`."""
        if len(state):
            self.take(dict(zip(self.weights, state.tolist(), strict=True)))
