"""Latency of several models side by side: each in its own warm process, measured in turn, one row at a time.

By definition: the model alone (the tokenizer apart), a row of median length, unpadded, threads stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from attar.bench.matrix import measure
from attar.bench.process import Subject
from attar.facts import Measurement, SpentFacts
from attar.tasks.base import Encoded

REPEATS = 10


@dataclass(frozen=True)
class Latencies:
    """What was measured, in milliseconds, and why the rest was not."""

    measured: dict[str, Measurement] = field(default_factory=dict[str, Measurement])
    repeats: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Medians of the interleaved repeats, milliseconds: what `interleave.ratio` takes."""
    taken: dict[str, list[SpentFacts]] = field(default_factory=dict[str, list[SpentFacts]])
    """Time and counters of one row, in each of the same repeats."""
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    """By model: why it was not measured."""


def median_row(encoded: Encoded) -> int:
    """The first row whose length is the (lower) median of all."""
    order = np.argsort(encoded.lengths, kind="stable")
    return int(order[(len(order) - 1) // 2])


def latency(subjects: Mapping[str, Subject], *, threads: int = 1, repeats: int = REPEATS) -> Latencies:
    """Milliseconds of one call of each subject: the median over interleaved repeats of the median of their calls.

    All processes are started first and stay warm; then one at a time works while the others wait. A subject that fails
    is left out with its reason; the others are measured.
    """
    found = Latencies()
    for name, one in measure(subjects, [1], threads=threads, repeats=repeats, together=True).items():
        if (taken := one.batches.get(1)) is None:
            found.reasons[name] = "; ".join(one.reasons)
            continue
        found.repeats[name], found.taken[name], found.measured[name] = taken.repeats, taken.spent, taken.latency
    return found
