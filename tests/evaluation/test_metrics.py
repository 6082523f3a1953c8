"""Metrics against scikit-learn and SciPy, on plain rows and on resamples written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score

from attar.answers import agreement, answers, correlation, mean_kl, probabilities
from attar.errors import DataError, PlanError
from attar.evaluation.metrics import labelled_rows, score, statistic, undefined

N, C = 120, 4
SINGLE = np.random.default_rng(0).normal(size=(N, C)).astype(np.float32)
TRUTH = np.where(np.random.default_rng(1).random(N) < 0.6, SINGLE.argmax(1), 0)
MULTI_TRUTH = (SINGLE + np.random.default_rng(2).normal(size=(N, C)) > 0.3).astype(np.float32)
NUMBERS = np.round(SINGLE[:, :1], 1)
NUMBER_TRUTH = np.round(SINGLE[:, 0] + np.random.default_rng(3).normal(size=N), 1).astype(np.float32)

ORACLES = [
    ("accuracy", "single_label", SINGLE, TRUTH, lambda z, y: accuracy_score(y, z.argmax(1))),
    ("macro_f1", "single_label", SINGLE, TRUTH, lambda z, y: f1_score(y, z.argmax(1), average="macro")),
    ("micro_f1", "single_label", SINGLE, TRUTH, lambda z, y: f1_score(y, z.argmax(1), average="micro")),
    ("accuracy", "multi_label", SINGLE, MULTI_TRUTH, lambda z, y: accuracy_score(y, z > 0)),
    ("macro_f1", "multi_label", SINGLE, MULTI_TRUTH, lambda z, y: f1_score(y, z > 0, average="macro", zero_division=0)),
    ("micro_f1", "multi_label", SINGLE, MULTI_TRUTH, lambda z, y: f1_score(y, z > 0, average="micro")),
    (
        "pearson",
        "regression",
        NUMBERS,
        NUMBER_TRUTH,
        lambda z, y: pearsonr(z[:, 0].astype(float), y.astype(float)).statistic,
    ),
    ("spearman", "regression", NUMBERS, NUMBER_TRUTH, lambda z, y: spearmanr(z[:, 0], y).statistic),
]
IDS = [f"{metric}-{problem}" for metric, problem, *_ in ORACLES]


@pytest.mark.parametrize(("metric", "problem", "logits", "labels", "oracle"), ORACLES, ids=IDS)
def test_the_score_is_the_librarys(metric, problem, logits, labels, oracle) -> None:
    assert score(metric, logits, labels, problem) == pytest.approx(oracle(logits, labels), abs=1e-9)


@pytest.mark.parametrize(("metric", "problem", "logits", "labels", "oracle"), ORACLES, ids=IDS)
def test_weights_are_rows_written_out(metric, problem, logits, labels, oracle) -> None:
    drawn = np.random.default_rng(5).integers(0, N, (7, N))
    weights = np.stack([np.bincount(rows, minlength=N) for rows in drawn]).astype(np.float64)
    ours = statistic(metric, logits, labels, problem)(weights)
    assert ours == pytest.approx([oracle(logits[rows], labels[rows]) for rows in drawn], abs=1e-9)


@pytest.mark.parametrize(("metric", "problem", "logits", "labels", "oracle"), ORACLES, ids=IDS)
def test_the_order_of_rows_does_not_matter(metric, problem, logits, labels, oracle) -> None:
    order = np.random.default_rng(6).permutation(N)
    assert score(metric, logits[order], labels[order], problem) == pytest.approx(
        score(metric, logits, labels, problem), abs=1e-12
    )


def test_a_class_missing_from_truth_and_answers_does_not_count_in_macro_f1() -> None:
    logits, labels = np.eye(5, dtype=np.float32)[[0, 0, 1]], np.array([0, 1, 1])
    assert score("macro_f1", logits, labels, "single_label") == pytest.approx(2 / 3)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=30), st.integers(0, 99))
@settings(max_examples=60)
def test_spearman_with_ties_is_scipys(values: list[int], seed: int) -> None:
    x = np.array(values, np.float32)
    y = np.random.default_rng(seed).integers(0, 3, len(x)).astype(np.float32)
    ours = score("spearman", x[:, None], y, "regression")
    expected = 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else spearmanr(x, y).statistic
    assert ours == pytest.approx(expected, abs=1e-9)


def test_a_vector_that_does_not_vary_scores_zero() -> None:
    flat = np.full((5, 1), 0.1, np.float32)
    labels = np.arange(5, dtype=np.float32)
    for metric in ("pearson", "spearman"):
        assert score(metric, flat, labels, "regression") == 0.0
        assert undefined(metric, flat, labels)
    assert not undefined("accuracy", flat, labels)


def test_rows_without_label_are_left_out() -> None:
    labels = TRUTH.copy()
    labels[::2] = -100
    assert score("accuracy", SINGLE, labels, "single_label") == score(
        "accuracy", SINGLE[1::2], TRUTH[1::2], "single_label"
    )
    assert labelled_rows(np.array([[1.0, np.nan], [0.0, 1.0]], np.float32)).tolist() == [False, True]
    assert labelled_rows(np.array([np.nan, 1.0], np.float32)).tolist() == [False, True]


def test_no_label_at_all_is_an_error_with_a_way_out() -> None:
    with pytest.raises(DataError, match=r"no row has a label.*agreement"):
        score("accuracy", SINGLE, np.full(N, -100), "single_label")


def test_a_metric_that_does_not_fit_is_refused_with_those_that_do() -> None:
    with pytest.raises(PlanError, match=r'"spearman" does not fit a single_label task. Allowed: accuracy, macro_f1'):
        score("spearman", SINGLE, TRUTH, "single_label")


def test_answers_and_probabilities() -> None:
    assert answers(SINGLE, "single_label").tolist() == SINGLE.argmax(1).tolist()
    np.testing.assert_allclose(probabilities(SINGLE, "single_label").sum(1), 1)
    np.testing.assert_allclose(probabilities(SINGLE, "multi_label"), 1 / (1 + np.exp(-SINGLE.astype(np.float64))))


def test_divergence_by_hand() -> None:
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.25, 0.25])
    expected = (p * np.log(p / q)).sum()
    assert mean_kl(np.log(p)[None], np.log(q)[None] + 3, "single_label") == pytest.approx(expected)
    assert mean_kl(SINGLE, SINGLE, "single_label") == 0.0
    binary = 0.7 * np.log(0.7 / 0.5) + 0.3 * np.log(0.3 / 0.5)
    assert mean_kl(np.full((1, 2), np.log(0.7 / 0.3)), np.zeros((1, 2)), "multi_label") == pytest.approx(binary)


def test_agreement_of_numbers_is_their_correlation() -> None:
    assert agreement(NUMBERS, 2 * NUMBERS, "regression") == pytest.approx(1)
    assert correlation(np.ones(3), np.ones(3)) == 1.0
    assert correlation(np.ones(3), np.arange(3)) == 0.0
    assert agreement(SINGLE, SINGLE[:, ::-1], "single_label") < 0.5
    assert agreement(np.array([[1.0, -1], [1, 1]]), np.array([[1.0, 1], [2, 2]]), "multi_label") == 0.5
