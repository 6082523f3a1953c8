"""Intervals and tests for models that answered the same rows: the paired bootstrap, and McNemar's exact test.

Each resample draws rows with replacement once, for all models alike, so that what is hard for both cancels in ratios
and differences. Over several training seeds it draws seeds first, then rows (jointly for the drawn seeds: all of
them answered the same test). Efron and Tibshirani 1993 (percentile intervals); McNemar 1947.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.stats import binomtest

from attar.evaluation.metrics import Array, Statistic
from attar.facts import Interval

_CELLS = 2_000_000
"""Weights held at once: 16 MB."""


@dataclass(frozen=True)
class Resampled:
    """One statistic: its value on the rows as they are, its values on the resamples [B], and what it rests on."""

    point: float
    values: Array
    rows: int
    seeds: int


def resample(
    statistics: Mapping[str, Sequence[Statistic]], rows: int, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Resampled]:
    """All statistics on the same resamples of `rows` rows. A statistic has one function, or one a training seed.

    Several seeds give the mean over seeds; models with one function (the teacher) stand beside every seed.
    """
    if rows < 1:
        raise ValueError("a bootstrap needs at least one row")
    seeds = max(len(functions) for functions in statistics.values())
    rng = np.random.default_rng(seed)
    shares = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    values: dict[str, list[Array]] = {name: [] for name in statistics}
    step = max(1, _CELLS // rows)
    for start in range(0, resamples, step):
        share = shares[start : start + step]
        weights = _row_weights(rng, len(share), rows)
        for name, functions in statistics.items():
            values[name].append(_over_seeds(functions, weights, share))
    whole, even = np.ones((1, rows)), np.full((1, seeds), 1 / seeds)
    return {
        name: Resampled(float(_over_seeds(functions, whole, even)[0]), np.concatenate(values[name]), rows, seeds)
        for name, functions in statistics.items()
    }


def bootstrap_metric(metric: Resampled, confidence: float = 0.95) -> Interval:
    """A metric with its percentile interval."""
    return _interval(metric.point, metric.values, metric, confidence)


def bootstrap_ratio(over: Resampled, under: Resampled, confidence: float = 0.95) -> Interval | None:
    """`over` / `under` of one `resample`; None where `under` is not positive; such resamples are left out."""
    if under.point <= 0:
        return None
    usable = under.values > 0
    ratios = over.values[usable] / under.values[usable]
    return _interval(over.point / under.point, ratios, over, confidence, left_out=int((~usable).sum()))


def bootstrap_difference(one: Resampled, other: Resampled, confidence: float = 0.95) -> Interval:
    """`one` - `other` of one `resample`."""
    return _interval(one.point - other.point, one.values - other.values, one, confidence)


def mcnemar(one_right: Array, other_right: Array) -> float:
    """Two-sided exact p that two models err equally often, from the rows [N] each answers rightly; 1 if never apart."""
    only_one = int((one_right & ~other_right).sum())
    apart = only_one + int((other_right & ~one_right).sum())
    return 1.0 if apart == 0 else float(cast("float", binomtest(only_one, apart, 0.5).pvalue))


def _row_weights(rng: np.random.Generator, resamples: int, rows: int) -> Array:
    """How often each row is drawn in each resample, float64 [B, N]; each sums to N."""
    drawn = rng.integers(0, rows, (resamples, rows)) + np.arange(resamples)[:, None] * rows
    return np.bincount(drawn.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float64)


def _over_seeds(functions: Sequence[Statistic], weights: Array, share: Array) -> Array:
    if len(functions) == 1:
        return functions[0](weights)
    return (np.stack([function(weights) for function in functions], -1) * share).sum(-1)


def _interval(value: float, values: Array, basis: Resampled, confidence: float, left_out: int = 0) -> Interval:
    lo, hi = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    drawn = "seeds first, then rows jointly for all models" if basis.seeds > 1 else "rows jointly for all models"
    method = f"percentile bootstrap, {len(values)} resamples of {drawn}"
    if left_out:
        method += f"; {left_out} resamples without a positive denominator left out"
    return Interval(
        value=value, lo=float(lo), hi=float(hi), n=basis.rows, seeds=basis.seeds, confidence=confidence, method=method
    )
