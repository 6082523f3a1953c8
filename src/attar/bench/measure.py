"""Latency of several models side by side: each in its own warm process, measured in turn, one row at a time.

By definition: the model alone (the tokenizer apart), a row of median length, unpadded, threads stated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from attar.bench.interleave import interleave
from attar.bench.process import Failed, Job, Subject, Worker
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
    found, jobs = Latencies(), dict[str, Job]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attar-bench-")))
        workers = {
            name: stack.enter_context(Worker(subject, folder / str(i), threads))
            for i, (name, subject) in enumerate(subjects.items())
        }
        for name, worker in workers.items():
            try:
                worker.ready()
                jobs[name] = worker.job(worker.subject.inputs)
            except Failed as failed:
                found.reasons[name] = f"not measured: {failed}"
        medians = interleave({name: job.median for name, job in jobs.items()}, repeats)
    for name, job in jobs.items():
        found.repeats[name] = [1000 * value for value in medians[name]]
        found.taken[name] = job.taken
        found.measured[name] = measurement(job, found.repeats[name], threads)
    return found


def measurement(job: Job, medians: list[float], threads: int) -> Measurement:
    """The record of a job's repeats; `medians` in milliseconds."""
    rows = "one unpadded row of median length" if job.rows == 1 else f"{job.rows} times such a row"
    return Measurement(
        value=float(np.median(medians)),
        unit="ms",
        n=len(medians),
        lo=min(medians),
        hi=max(medians),
        p95=1000 * float(np.quantile(job.seconds, 0.95)),
        device="cpu",
        threads=threads,
        dtype=job.worker.subject.dtype,
        method=f"{job.worker.runtime}; the model alone, {rows} ({job.shapes}); own process, "
        f"{len(medians)} interleaved repeats of {job.calls} calls, medians",
    )
