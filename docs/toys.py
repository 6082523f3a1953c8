"""What the figures show, as numbers: one bump fitted to two, and how hard an objective pulls at a row's logits.

Everything is attar's own functions in float64; nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

from attar.objectives.response import (
    adaptive_kl,
    alpha_beta,
    dkd,
    forward_kl,
    jsd,
    logit_mse,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    taid,
    todi,
    total_variation,
)

Function = Callable[[Tensor, Tensor], Tensor]

# One bump for two.

GRID = torch.linspace(-5.0, 5.0, 101, dtype=torch.float64)
VALLEY = 0.5
"""What lies left of it belongs to the teacher's larger mode."""
FITTED: Mapping[str, Function] = {
    "forward_kl": forward_kl,
    "skew_kl (alpha 0.1)": skew_kl,
    "total_variation": total_variation,
    "jsd (beta 0.5)": jsd,
    "skew_reverse_kl (alpha 0.1)": skew_reverse_kl,
    "reverse_kl": reverse_kl,
}
_MODES = ((0.65, -1.5, 0.6), (0.35, 2.2, 0.45))
"""Share, middle and width of the teacher's modes."""
_STARTS = tuple(product((-1.5, 0.0, 2.0), (0.5, 2.0)))


@dataclass(frozen=True)
class Fit:
    """The bump that makes an objective smallest."""

    q: np.ndarray
    """Its probabilities on the grid."""
    middle: float
    width: float
    left: float
    """Its share left of the valley."""


def two_modes() -> Tensor:
    """The teacher's probabilities on the grid."""
    bumps = [share / width * torch.exp(-0.5 * ((GRID - at) / width) ** 2) for share, at, width in _MODES]
    total = torch.stack(bumps).sum(0)
    return total / total.sum()


def fit(function: Function) -> Fit:
    """The best Gaussian on the grid, by L-BFGS from several starts."""
    teacher = two_modes().log().unsqueeze(0)
    found = min((_descend(function, teacher, *start) for start in _STARTS), key=lambda one: one[0])
    _, middle, width = found
    q = _bump(torch.tensor(middle), torch.tensor(width)).softmax(-1).squeeze(0)
    return Fit(q.numpy(), middle, width, float(q[GRID < VALLEY].sum()))


def _bump(middle: Tensor, width: Tensor) -> Tensor:
    return (-0.5 * ((GRID - middle) / width) ** 2).unsqueeze(0)


def _descend(function: Function, teacher: Tensor, middle: float, width: float) -> tuple[float, float, float]:
    at = torch.tensor([middle, np.log(width)], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([at], max_iter=60, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def value() -> Tensor:
        optimizer.zero_grad()
        loss = function(_bump(at[0], at[1].exp()), teacher).sum()
        loss.backward()
        return loss

    optimizer.step(value)
    return value().item(), at[0].item(), at[1].exp().item()


# How hard a row is pulled.

TEACHER = (0.9, 0.075, 0.025)
"""Its probabilities of a row's three outputs: sure of the first, and 3 to 1 between the others."""
ODDS = np.linspace(-7.0, 7.0, 71)
"""Log-odds that the student gives the first output; it takes the other two for equally likely."""
PULLED: Mapping[str, Function] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd (beta 0.5)": jsd,
    "alpha_beta (½, ½)": alpha_beta,
    "skew_kl (alpha 0.1)": skew_kl,
    "skew_reverse_kl (alpha 0.1)": skew_reverse_kl,
    "adaptive_kl": adaptive_kl,
    "todi": todi,
    "total_variation": total_variation,
    "taid (progress 0.4)": partial(taid, progress=0.4),
    "dkd (beta 1)": lambda z, t: dkd(z, t, labels=torch.zeros(len(z), dtype=torch.int64), beta=1.0),
    "logit_mse / 2V": lambda z, t: logit_mse(z, t) / (2 * z.shape[-1]),
}


@dataclass(frozen=True)
class Pull:
    """-dL/dz, so positive where a step makes the output likelier, at each of `ODDS`."""

    first: np.ndarray
    second: np.ndarray


def pull(function: Function) -> Pull:
    """Of the teacher's first and second output."""
    odds = torch.from_numpy(ODDS)
    logits = torch.stack([odds, *[torch.full_like(odds, -np.log(2.0))] * 2], -1).requires_grad_()
    teacher = torch.tensor(TEACHER, dtype=torch.float64).log().expand(len(odds), -1)
    (gradient,) = torch.autograd.grad(function(logits, teacher).sum(), logits)
    return Pull(-gradient[:, 0].numpy(), -gradient[:, 1].numpy())
