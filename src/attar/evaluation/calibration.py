"""Is a confidence of 0.8 right in 80 % of the rows? Expected calibration error, and the one temperature that mends it.

Guo et al. 2017 (arXiv:1706.04599) for temperature scaling (the search is shared with the fitting of teachers); bins of
equal mass after Nixon et al. 2019 (arXiv:1904.01685).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from attar.answers import log_probabilities
from attar.evaluation.metrics import labelled_rows
from attar.tasks.base import Problem
from attar.teachers.quality import fit_temperature

__all__ = ["expected_calibration_error", "fit_temperature", "reliability_bins"]

Array = NDArray[Any]
Bin = tuple[float, float, int]

BINS = 15


def expected_calibration_error(logits: Array, labels: Array, problem: Literal["single_label", "multi_label"]) -> float:
    """Mean distance of confidence and accuracy over bins of equal mass, weighted by rows: 0..1."""
    found = reliability_bins(logits, labels, problem)
    total = sum(count for _, _, count in found)
    return sum(abs(confidence - accuracy) * count for confidence, accuracy, count in found) / total


def reliability_bins(
    logits: Array, labels: Array, problem: Literal["single_label", "multi_label"], bins: int = BINS
) -> list[Bin]:
    """(mean confidence, accuracy, rows) of at most `bins` bins of equal mass, from least to most confident.

    Confidence is the probability of the given answer (`multi_label`: of the yes or no to each label, all counted).
    Rows of equal confidence share a bin, so the order of rows does not matter. Needs at least one labelled row.
    """
    keep = labelled_rows(labels)
    log_p = log_probabilities(logits[keep], problem)
    confidence = np.exp(log_p.max(-1))
    right = log_p.argmax(-1) == _target_columns(labels[keep], problem)
    place = (rankdata(confidence) - 0.5) / len(confidence)
    index = np.minimum((place * bins).astype(np.int64), bins - 1)
    return [
        (float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum()))
        for inside in (index == k for k in range(bins))
        if inside.any()
    ]


def _target_columns(labels: Array, problem: Problem) -> Array:
    """The right column of each row of `log_probabilities`; for `multi_label` 0 is yes and 1 is no."""
    return labels if problem == "single_label" else np.where(labels.reshape(-1) > 0.5, 0, 1)
