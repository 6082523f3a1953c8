"""Repeats of several jobs taken in turn, and their ratios: what drifts on a machine then drifts for all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from attar.facts import Interval

_RESAMPLES = 2000


def interleave(jobs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run all jobs `repeats` times in turn, in alternating order; what each returned (seconds, say), by name."""
    results: dict[str, list[float]] = {name: [] for name in jobs}
    order = list(jobs)
    for repeat in range(repeats):
        for name in order if repeat % 2 == 0 else reversed(order):
            results[name].append(jobs[name]())
    return results


def ratio(one: Sequence[float], other: Sequence[float], confidence: float = 0.95) -> Interval:
    """Median of one[i] / other[i] over interleaved repeats, with its bootstrap interval. Both are positive."""
    ratios = np.asarray(one, np.float64) / np.asarray(other, np.float64)
    draws = np.random.default_rng(0).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    lo, hi = np.quantile(np.median(ratios[draws], -1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(
        value=float(np.median(ratios)),
        lo=float(lo),
        hi=float(hi),
        n=len(ratios),
        seeds=1,
        confidence=confidence,
        method="median ratio of interleaved repeats, percentile bootstrap over repeats",
    )
