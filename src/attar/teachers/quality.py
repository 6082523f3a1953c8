"""How good a teacher is on labelled rows: the task's metric, and how it compares with always giving one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax
from scipy.stats import binomtest, pearsonr, spearmanr
from sklearn.metrics import f1_score

from attar.tasks.base import NO_LABEL, Problem


@dataclass(frozen=True)
class Chance:
    """A teacher beside the best constant answer (regression: beside no correlation)."""

    right: float
    """Share of right answers (multi-label: of right marks; regression: the rank correlation)."""
    baseline: float
    """The same for the best constant answer."""
    p: float
    """One-sided binomial test that the constant answer does as well (regression: that there is no correlation)."""
    n: int

    @property
    def barely_better(self) -> bool:
        """Not significantly better, or less than a tenth of the way from the baseline to perfect."""
        return self.p > 0.01 or self.right - self.baseline < 0.1 * (1 - self.baseline)


def has_label(labels: np.ndarray, problem: Problem) -> np.ndarray:
    """Bool [N]: which rows have a label."""
    match problem:
        case "single_label":
            return np.asarray(labels != NO_LABEL)
        case "multi_label":
            return np.asarray(~np.isnan(labels).all(1))
        case "regression":
            return np.asarray(~np.isnan(labels))


def quality(metric: str, logits: np.ndarray, labels: np.ndarray, problem: Problem) -> float | None:
    """The task's metric over rows with a label, higher is better; None where no row has one.

    `logits` [N, C]; `labels` as in `attar.tasks.base`. Correlations are 0 where one side is constant.
    """
    known = has_label(labels, problem)
    if not known.any():
        return None
    logits, labels = logits[known], labels[known]
    if problem == "regression":
        correlate = pearsonr if metric == "pearson" else spearmanr
        constant = np.ptp(logits) == 0 or np.ptp(labels) == 0
        return 0.0 if constant else float(cast("Any", correlate(logits[:, 0], labels)).statistic)
    answers = logits.argmax(1) if problem == "single_label" else (logits > 0).astype(np.int64)
    targets = labels if problem == "single_label" else (np.nan_to_num(labels) > 0.5).astype(np.int64)
    if metric in ("macro_f1", "micro_f1"):
        return float(f1_score(targets, answers, average=metric.removesuffix("_f1"), zero_division=cast("Any", 0)))
    return float((answers == targets).mean() if answers.ndim == 1 else (answers == targets).all(1).mean())


def against_chance(logits: np.ndarray, labels: np.ndarray, problem: Problem) -> Chance | None:
    """Compare with the best constant answer; None where no row has a label."""
    known = has_label(labels, problem)
    if not known.any():
        return None
    logits, labels = logits[known], labels[known]
    if problem == "regression":
        if len(labels) < 3 or np.ptp(logits) == 0 or np.ptp(labels) == 0:
            return Chance(0.0, 0.0, 1.0, len(labels))
        found = cast("Any", spearmanr(logits[:, 0], labels, alternative="greater"))
        return Chance(float(found.statistic), 0.0, float(found.pvalue), len(labels))
    if problem == "single_label":
        hits, n = int((logits.argmax(1) == labels).sum()), len(labels)
        baseline = float(np.bincount(labels).max() / n)
    else:
        marks = ~np.isnan(labels)
        truth = np.nan_to_num(labels) > 0.5
        hits, n = int((((logits > 0) == truth) & marks).sum()), int(marks.sum())
        share = (truth & marks).sum(0)
        baseline = float(np.maximum(share, marks.sum(0) - share).sum() / n)
    return Chance(hits / n, baseline, float(binomtest(hits, n, baseline, alternative="greater").pvalue), n)


def fit_temperature(logits: np.ndarray, labels: np.ndarray, problem: Problem) -> float:
    """The temperature in 0.05..20 at which the labels are most likely under `logits` over it.

    1 for regression, and where every answer is right: then the likeliest temperature is 0, which says nothing.
    """
    known = has_label(labels, problem)
    if problem == "regression" or not known.any():
        return 1.0
    z, y = logits[known].astype(np.float64), labels[known]
    right = z.argmax(1) == y if problem == "single_label" else (z > 0) == (y > 0.5)
    if right.all():
        return 1.0

    def loss(log_temperature: float) -> float:
        return label_loss(z / np.exp(log_temperature), y, problem)

    found: Any = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def label_loss(logits: np.ndarray, labels: np.ndarray, problem: Problem) -> float:
    """Mean negative log-likelihood of labels, nats a row (multi-label: a mark); regression: mean squared error."""
    match problem:
        case "single_label":
            return -float(log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())
        case "multi_label":
            p = np.clip(expit(logits), 1e-12, 1 - 1e-12)
            return -float(np.nanmean(labels * np.log(p) + (1 - labels) * np.log1p(-p)))
        case "regression":
            return float(((logits[:, 0] - labels) ** 2).mean())
