"""The paired bootstrap and McNemar's test: laws, a slow bootstrap written out, and hand-made numbers."""

from __future__ import annotations

import time
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.evaluation.metrics import mean_of, statistic
from attar.evaluation.statistics import (
    Resampled,
    bootstrap_difference,
    bootstrap_metric,
    bootstrap_ratio,
    mcnemar,
    resample,
)

RNG = np.random.default_rng(0)
N = 300
TEACHER, STUDENT, CONTROL = (RNG.random(N) < share for share in (0.95, 0.9, 0.8))


def both(one: np.ndarray, other: np.ndarray, **options: int) -> tuple[Resampled, Resampled]:
    found = resample({"one": [mean_of(one)], "other": [mean_of(other)]}, len(one), **options)
    return found["one"], found["other"]


def test_identical_models_keep_exactly_everything() -> None:
    kept = bootstrap_ratio(*both(STUDENT, STUDENT))
    assert kept is not None
    assert (kept.value, kept.lo, kept.hi) == (1.0, 1.0, 1.0)
    gain = bootstrap_difference(*both(STUDENT, STUDENT))
    assert (gain.value, gain.lo, gain.hi) == (0.0, 0.0, 0.0)


def test_the_interval_is_that_of_rows_drawn_one_by_one() -> None:
    rng = np.random.default_rng(7)
    slow = []
    for _ in range(2000):
        rows = rng.integers(0, N, N)
        slow.append(STUDENT[rows].mean() / TEACHER[rows].mean())
    kept = bootstrap_ratio(*both(STUDENT, TEACHER, resamples=4000))
    assert kept is not None
    assert kept.value == pytest.approx(STUDENT.mean() / TEACHER.mean())
    assert [kept.lo, kept.hi] == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.006)
    assert (kept.n, kept.seeds, kept.confidence) == (N, 1, 0.95)
    assert "4000 resamples of rows jointly" in kept.method


def test_pairing_narrows_the_gain() -> None:
    noisy = STUDENT ^ (np.arange(N) % 100 == 0)
    paired = bootstrap_difference(*both(STUDENT, noisy))
    one, other = (np.std(r.values) for r in both(STUDENT, noisy))
    assert paired.hi - paired.lo < 0.5 * 3.92 * np.hypot(one, other)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 5))
@settings(max_examples=40)
def test_a_metric_lies_in_its_interval_and_seeds_fix_it(right: list[bool], seed: int) -> None:
    values = np.array(right)
    one = bootstrap_metric(both(values, values, resamples=200, seed=seed)[0])
    assert 0 <= one.lo <= one.hi <= 1
    assert one == bootstrap_metric(both(values, values, resamples=200, seed=seed)[0])
    if all(right) or not any(right):
        assert one.lo == one.value == one.hi


def test_a_higher_confidence_gives_a_wider_interval() -> None:
    one, _ = both(STUDENT, TEACHER)
    wide, narrow = bootstrap_metric(one, 0.99), bootstrap_metric(one, 0.8)
    assert wide.lo < narrow.lo < narrow.hi < wide.hi


def test_several_seeds_are_drawn_first() -> None:
    """Rows without any chance of their own: all of the interval comes from the seeds."""
    seeds = [mean_of(np.full(50, value)) for value in (0.2, 0.4, 0.9)]
    found = resample({"student": seeds, "teacher": [mean_of(np.ones(50))]}, 50, resamples=3000)
    kept = bootstrap_ratio(found["student"], found["teacher"])
    assert kept is not None
    assert kept.value == pytest.approx(0.5)
    assert (kept.seeds, kept.n) == (3, 50)
    assert kept.lo == pytest.approx(0.2)
    assert kept.hi == pytest.approx(0.9)
    expected = [(2 * 0.2 + 0.9) / 3, (0.2 + 0.4 + 0.9) / 3]
    for value in expected:
        assert np.isclose(found["student"].values, value).any()
    assert "seeds first" in kept.method


def test_student_and_control_share_the_drawn_seeds() -> None:
    students = [mean_of(np.full(20, value)) for value in (0.5, 0.7, 0.9)]
    controls = [mean_of(np.full(20, value - 0.1)) for value in (0.5, 0.7, 0.9)]
    found = resample({"student": students, "control": controls}, 20, resamples=500)
    gain = bootstrap_difference(found["student"], found["control"])
    assert gain.lo == pytest.approx(0.1)
    assert gain.hi == pytest.approx(0.1)


def test_a_teacher_that_is_not_above_zero_has_no_retention() -> None:
    assert bootstrap_ratio(*both(STUDENT, np.zeros(N))) is None


def test_resamples_without_a_positive_teacher_are_left_out_and_counted() -> None:
    rare = np.zeros(20, bool)
    rare[0] = True
    kept = bootstrap_ratio(*both(rare, rare))
    assert kept is not None
    assert (kept.lo, kept.hi) == (1.0, 1.0)
    assert "left out" in kept.method


def test_two_thousand_resamples_of_77_classes_take_a_moment() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(3080, 77)).astype(np.float32), rng.integers(0, 77, 3080)
    functions = {name: [statistic("macro_f1", logits, labels, "single_label")] for name in ("student", "teacher")}
    started = time.process_time()
    resample(functions, 3080)
    assert time.process_time() - started < 10  # about one second; the bound allows for a busy machine


@pytest.mark.parametrize(("only_one", "only_other"), [(0, 0), (5, 0), (3, 9), (1, 1), (10, 2)])
def test_mcnemar_is_the_exact_binomial_and_symmetric(only_one: int, only_other: int) -> None:
    one = np.array([True] * 4 + [True] * only_one + [False] * only_other)
    other = np.array([True] * 4 + [False] * only_one + [True] * only_other)
    n, k = only_one + only_other, min(only_one, only_other)
    expected = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
    assert mcnemar(one, other) == pytest.approx(expected)
    assert mcnemar(one, other) == mcnemar(other, one)
