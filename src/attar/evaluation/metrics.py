"""Metrics as functions of row weights, so that thousands of bootstrap resamples are a few matrix products.

A `Statistic` takes weights [B, N] (how often each row stands in each of B resamples) and gives B values. The plain
score is the one with all weights 1. Tests hold every metric to scikit-learn or SciPy on the rows written out.
Higher is better for all. Shape letters: B resamples, N rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.answers import answers, probabilities
from attar.errors import DataError, PlanError
from attar.tasks.base import NO_LABEL, Problem

__all__ = ["METRICS", "Statistic", "answers", "labelled_rows", "probabilities", "score", "statistic", "undefined"]

Array = NDArray[Any]
Statistic = Callable[[Array], Array]

METRICS: dict[Problem, tuple[str, ...]] = {
    "single_label": ("accuracy", "macro_f1", "micro_f1"),
    "multi_label": ("accuracy", "macro_f1", "micro_f1"),
    "regression": ("pearson", "spearman"),
}
_FLAT = 1e-18
"""Variance below this share of the squared size is rounding: the vector does not vary."""


def score(metric: str, logits: Array, labels: Array, problem: Problem) -> float:
    """The metric of logits [N, C] against labels (as in `Encoded`); rows without a label are left out.

    accuracy: share of right answers (multi_label: of rows with exactly the right set); macro_f1: mean F1 of the labels
    that occur in truth or answers (multi_label: of all labels); micro_f1: F1 of all decisions pooled; pearson and
    spearman: correlation, 0 where one side does not vary. Raises DataError without any label, PlanError where the
    metric does not fit the problem.
    """
    keep = labelled_rows(labels)
    if not keep.any():
        raise DataError(f"{metric}: no row has a label, so there is nothing to score. Use agreement with the teacher.")
    return float(statistic(metric, logits[keep], labels[keep], problem)(np.ones((1, int(keep.sum()))))[0])


def labelled_rows(labels: Array) -> NDArray[np.bool_]:
    """Which rows [N] have a label: not -100, and no NaN in the row."""
    if labels.dtype.kind == "f":
        return np.asarray(~np.isnan(labels.reshape(len(labels), -1)).any(-1))
    return np.asarray(labels != NO_LABEL)


def undefined(metric: str, logits: Array, labels: Array) -> bool:
    """Is the metric 0 by our definition only (a correlation with something that does not vary)?"""
    return metric in ("pearson", "spearman") and (np.ptp(logits) == 0 or np.ptp(labels) == 0)


def statistic(metric: str, logits: Array, labels: Array, problem: Problem) -> Statistic:
    """The metric on labelled rows, as a function of row weights [B, N] -> [B]."""
    if metric not in METRICS[problem]:
        allowed = ", ".join(METRICS[problem])
        raise PlanError(f'task.metric: "{metric}" does not fit a {problem} task. Allowed: {allowed}.')
    given = answers(logits, problem)
    match metric:
        case "pearson":
            truth = labels.astype(np.float64)
            return lambda weights: _correlation(weights, given, truth)
        case "spearman":
            rank_given, rank_truth = _ranker(given), _ranker(labels)
            return lambda weights: _correlation(weights, rank_given(weights), rank_truth(weights))
        case "accuracy":
            return mean_of(right_rows(given, labels))
        case _:
            chosen, truth = _one_hot(given, labels, logits.shape[-1])
            return _f1(chosen, truth, macro=metric == "macro_f1", all_labels=problem == "multi_label")


def right_rows(given: Array, labels: Array) -> NDArray[np.bool_]:
    """Which rows [N] are answered rightly; for multi-label answers [N, C] every label must be right."""
    right = given == (labels if given.ndim == 1 else labels > 0.5)
    return right if right.ndim == 1 else right.all(-1)


def mean_of(values: Array) -> Statistic:
    """The weighted mean of values [N]."""
    numbers = values.astype(np.float64)
    return lambda weights: weights @ numbers / weights.sum(-1)


def correlation_of(x: Array, y: Array) -> Statistic:
    """The weighted Pearson correlation of two vectors [N]."""
    return lambda weights: _correlation(weights, x, y)


def _one_hot(given: Array, labels: Array, classes: int) -> tuple[Array, Array]:
    if given.ndim == 2:
        return given.astype(np.float64), (labels > 0.5).astype(np.float64)
    eye = np.eye(classes)
    return eye[given], eye[labels]


def _f1(chosen: Array, truth: Array, *, macro: bool, all_labels: bool) -> Statistic:
    """F1 from weighted counts: 2 TP / (chosen + true); 0 where nothing is chosen and nothing is true."""

    def compute(weights: Array) -> Array:
        hits, total = weights @ (chosen * truth), weights @ (chosen + truth)
        if not macro:
            hits, total = hits.sum(-1, keepdims=True), total.sum(-1, keepdims=True)
        f1 = 2 * hits / np.maximum(total, 1)
        if not macro or all_labels:
            return f1.mean(-1)
        return f1.sum(-1) / (total > 0).sum(-1)

    return compute


def _ranker(values: Array) -> Statistic:
    """Average ranks [B, N] of values [N] within each weighted resample; equal values share the mean of their ranks."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])

    def compute(weights: Array) -> Array:
        size = np.add.reduceat(weights[:, order], starts, axis=-1)
        return (np.cumsum(size, -1) - (size - 1) / 2)[:, group]

    return compute


def _correlation(weights: Array, x: Array, y: Array) -> Array:
    """Weighted Pearson correlation a resample; x and y are [N] or [B, N]. 0 where one of them does not vary."""
    n = weights.sum(-1, keepdims=True)
    deviations: list[Array] = []
    flat = np.zeros(len(weights), bool)
    for values in (x, y):
        wide = np.broadcast_to(values, weights.shape)
        centred = wide - (weights * wide).sum(-1, keepdims=True) / n
        deviations.append(centred)
        flat |= (weights * centred**2).sum(-1) <= _FLAT * np.square(wide).max(-1) * n[:, 0]
    dx, dy = deviations
    scale = np.sqrt((weights * dx**2).sum(-1) * (weights * dy**2).sum(-1))
    return np.where(flat, 0.0, np.clip((weights * dx * dy).sum(-1) / np.where(flat, 1.0, scale), -1.0, 1.0))
