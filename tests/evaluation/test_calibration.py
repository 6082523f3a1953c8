"""Calibration: bins by hand, laws, and a temperature that is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attar.evaluation.calibration import expected_calibration_error, fit_temperature, reliability_bins


def drawn(n: int, temperature: float, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels that follow softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 2
    p = np.exp(logits / temperature)
    p /= p.sum(1, keepdims=True)
    labels = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(20_000, temperature), "single_label") == pytest.approx(temperature, rel=0.05)


def test_calibration_lowers_the_error_on_other_rows() -> None:
    found = fit_temperature(*drawn(2000, 3.0, seed=1), "single_label")
    logits, labels = drawn(2000, 3.0, seed=2)
    before, after = (expected_calibration_error(z, labels, "single_label") for z in (logits, logits / found))
    assert after < 0.03 < before


def test_separable_rows_stay_within_the_bounds_and_no_labels_give_one() -> None:
    logits = 4 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    assert fit_temperature(logits, np.array([0, 1, 2, 0]), "single_label") == 1.0
    assert fit_temperature(logits, np.full(4, -100), "single_label") == 1.0
    assert fit_temperature(logits[:, :1], np.ones(4, np.float32), "regression") == 1.0


def test_bins_by_hand() -> None:
    confidence = np.repeat([0.6, 0.7, 0.9], [2, 2, 2])
    logits = np.log(np.stack([confidence, 1 - confidence], 1))
    labels = np.array([0, 1, 0, 0, 0, 1])
    bins = reliability_bins(logits, labels, "single_label", bins=3)
    assert [count for _, _, count in bins] == [2, 2, 2]
    assert [one[0] for one in bins] == pytest.approx([0.6, 0.7, 0.9])
    assert [one[1] for one in bins] == pytest.approx([0.5, 1.0, 0.5])
    assert expected_calibration_error(logits, labels, "single_label") == pytest.approx((0.1 + 0.3 + 0.4) / 3)


def test_bins_have_equal_mass() -> None:
    bins = reliability_bins(*drawn(1500, 1.0), "single_label")
    assert [count for _, _, count in bins] == [100] * 15
    assert [one[0] for one in bins] == sorted(one[0] for one in bins)


def test_rows_of_one_confidence_share_a_bin() -> None:
    logits = np.tile(np.log([[0.8, 0.2]]), (10, 1))
    labels = np.array([0] * 8 + [1] * 2)
    assert reliability_bins(logits, labels, "single_label") == [(pytest.approx(0.8), 0.8, 10)]
    assert expected_calibration_error(logits, labels, "single_label") == pytest.approx(0, abs=1e-12)


@given(arrays(np.float32, (17, 3), elements=st.floats(-30, 30, width=32)), st.permutations(range(17)))
@settings(max_examples=50)
def test_the_error_is_a_share_and_does_not_know_the_order(logits: np.ndarray, order: list[int]) -> None:
    labels = np.arange(17) % 3
    found = expected_calibration_error(logits, labels, "single_label")
    assert 0 <= found <= 1
    assert expected_calibration_error(logits[order], labels[order], "single_label") == pytest.approx(found, abs=1e-9)


def test_several_labels_are_judged_one_by_one() -> None:
    logits, labels = np.array([[5.0, -5.0], [5.0, 5.0]]), np.array([[1, 0], [1, 0]], np.float32)
    assert expected_calibration_error(logits, labels, "multi_label") == pytest.approx(0.25 - (1 - 1 / (1 + np.exp(-5))))
