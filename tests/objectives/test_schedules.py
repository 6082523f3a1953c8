"""Schedules: where they start and end, and TAID's adaptive one against the authors' rule, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from attar.objectives.schedules import AdaptiveState, adapt, constant, cosine, linear
from objectives.draws import quick

share = st.floats(0, 1)


@quick
@given(done=share, value=st.floats(-10, 10))
def test_constant_is_constant(done: float, value: float) -> None:
    assert constant(done, value=value) == value


@pytest.mark.parametrize("schedule", [linear, cosine])
@quick
@given(start=st.floats(-10, 10), end=st.floats(-10, 10), over=st.floats(0.1, 1), done=share, later=share)
def test_a_schedule_goes_from_start_to_end_and_not_back(
    schedule: Callable[..., float], start: float, end: float, over: float, done: float, later: float
) -> None:
    at = partial(schedule, start=start, end=end, over=over)
    assert at(0.0) == pytest.approx(start, abs=1e-12)
    assert at(over) == at(1.0) == pytest.approx(end, abs=1e-12)
    assert at(over / 2) == pytest.approx((start + end) / 2, abs=1e-12)
    done, later = sorted((done, later))
    assert (at(later) - at(done)) * np.sign(end - start) >= -1e-12


def test_cosine_is_flat_at_its_ends() -> None:
    assert cosine(0.01, start=0.0, end=1.0) == pytest.approx((math.pi * 0.01) ** 2 / 4, rel=1e-3)
    assert linear(0.01, start=0.0, end=1.0) == pytest.approx(0.01)


@pytest.mark.parametrize("schedule", [partial(constant, value=1.0), partial(linear, start=0, end=1)])
@pytest.mark.parametrize("done", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_named(schedule: Callable[..., float], done: float) -> None:
    with pytest.raises(ValueError, match=f"schedule: done is {done}"):
        schedule(done)


@pytest.mark.parametrize("over", [0.0, 1.5])
def test_a_length_out_of_range_is_named(over: float) -> None:
    with pytest.raises(ValueError, match=f"schedule: over is {over}"):
        cosine(0.5, start=0.0, end=1.0, over=over)


def of_the_authors(losses: np.ndarray, start: float, end: float, alpha: float, beta: float) -> list[float]:
    """t after each step, by the rule of TAID's authors (arXiv:2501.16937); step i has i of the steps behind it."""
    t, momentum, last, found = start, 0.0, np.inf, []
    for step, loss in enumerate(losses):
        if np.isfinite(last):
            momentum = beta * momentum + (1 - beta) * (last - loss) / (last + 1e-15)
            t = min(end, max(start + (end - start) * step / len(losses), t + alpha * expit(momentum) * (1 - t)))
        last = loss
        found.append(t)
    return found


@pytest.mark.parametrize(
    ("start", "end", "alpha", "beta"), [(0.4, 1.0, 5e-4, 0.99), (0.2, 0.9, 0.05, 0.5), (0.0, 1.0, 1.0, 0.0)]
)
def test_adapt_is_the_authors_rule(start: float, end: float, alpha: float, beta: float) -> None:
    losses = np.exp(-np.linspace(0, 3, 200)) * (1 + 0.2 * np.random.default_rng(0).standard_normal(200)) + 0.5
    state, found = AdaptiveState(start), []
    for step, loss in enumerate(losses):
        state = adapt(state, float(loss), step / 200, start=start, end=end, alpha=alpha, beta=beta)
        found.append(state.value)
    np.testing.assert_allclose(found, of_the_authors(losses, start, end, alpha, beta), rtol=1e-12)


@quick
@given(losses=st.lists(st.floats(0, 100), min_size=2, max_size=30), alpha=share, beta=st.floats(0, 0.99))
def test_adapt_never_falls_and_stays_between_the_line_and_the_end(
    losses: list[float], alpha: float, beta: float
) -> None:
    state, before = AdaptiveState(0.4), 0.4
    for step, loss in enumerate(losses):
        done = step / len(losses)
        state = adapt(state, loss, done, end=0.9, alpha=alpha, beta=beta)
        assert linear(done, start=0.4, end=0.9) - 1e-12 <= state.value <= 0.9
        assert before <= state.value <= max(before + alpha, linear(done, start=0.4, end=0.9))
        before = state.value


def test_adapt_runs_ahead_where_the_loss_falls() -> None:
    falling, rising = AdaptiveState(0.4), AdaptiveState(0.4)
    for step in range(50):
        falling = adapt(falling, 0.8**step, 0.0, alpha=0.01, beta=0.9)
        rising = adapt(rising, 1.25**step, 0.0, alpha=0.01, beta=0.9)
    assert falling.value > rising.value > 0.4


def test_adapt_remembers_the_first_loss_only() -> None:
    assert adapt(AdaptiveState(0.4), 2.0, 0.5) == AdaptiveState(0.4, 0.0, 2.0)
