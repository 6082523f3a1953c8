"""How a number moves as training goes on: weights, temperatures, and how far TAID's target has come.

Pure functions of the share of the training that is done, in 0..1; a schedule that learns from the loss takes its state
and gives the next one. A schedule with its options bound is a `Schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[float], float]
"""Share of the training done (0..1) -> value."""

_TINY = 1e-15


def constant(done: float, *, value: float) -> float:
    """`value`, whatever the share of the training that is `done`."""
    _require_done(done)
    return value


def linear(done: float, *, start: float, end: float, over: float = 1.0) -> float:
    """From `start` to `end` in a straight line over the first `over` (in (0, 1]) of the training, then `end`.

    `done` in 0..1 is the share of the training that is behind. Raises ValueError where either is out of range.
    """
    return start + (end - start) * _along(done, over)


def cosine(done: float, *, start: float, end: float, over: float = 1.0) -> float:
    """From `start` to `end` along half a cosine, flat at both ends, over the first `over` of the training, then `end`.

    Options and errors as for `linear`, which it meets half-way.
    """
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * _along(done, over)))


@dataclass(frozen=True)
class AdaptiveState:
    """What `adapt` remembers from step to step; plain numbers, so a checkpoint can hold it."""

    value: float
    """How far the target has come, in 0..1: the `progress` of `taid`."""
    momentum: float = 0.0
    last_loss: float | None = None
    """None before the first step."""


def adapt(
    state: AdaptiveState,
    loss: float,
    done: float,
    *,
    start: float = 0.4,
    end: float = 1.0,
    alpha: float = 5e-4,
    beta: float = 0.99,
) -> AdaptiveState:
    """The state after a step: TAID's adaptive schedule. Shing et al. 2025 (arXiv:2501.16937), as in the authors' code.

    m' = beta m + (1 - beta) (last_loss - loss) / last_loss, then t' = t + alpha sigmoid(m') (1 - t), but not less than
    the straight line from `start` to `end`, nor more than `end`. Begin with `AdaptiveState(start)`; the first step only
    remembers its loss. `loss` is the term's value in that step (leave out steps that kept no row: a loss of 0 would
    make the next change endless), `done` the share of the training behind, in 0..1.

    So t never falls, stays on or above the line, and gains on it by less than `alpha` a step, the faster the more the
    loss falls. The line alone is `linear`. The authors feed the cross-entropy of p_t and q, whose relative changes are
    smaller than those of a KL.
    """
    floor = linear(done, start=start, end=end)
    if state.last_loss is None:
        return AdaptiveState(state.value, state.momentum, loss)
    gain = (state.last_loss - loss) / (state.last_loss + _TINY)
    momentum = beta * state.momentum + (1.0 - beta) * gain
    step = alpha * _sigmoid(momentum) * (1.0 - state.value)
    return AdaptiveState(min(end, max(floor, state.value + step)), momentum, loss)


def _along(done: float, over: float) -> float:
    _require_done(done)
    if not 0.0 < over <= 1.0:
        raise ValueError(f"schedule: over is {over}; it is a share of the training, so 0 < over <= 1")
    return min(done / over, 1.0)


def _require_done(done: float) -> None:
    if not 0.0 <= done <= 1.0:
        raise ValueError(f"schedule: done is {done}; it is a share of the training, so 0 <= done <= 1")


def _sigmoid(value: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * value))
