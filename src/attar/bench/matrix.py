"""Models times batch sizes, measured side by side: load, latency, throughput, memory and energy of each."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from attar.bench.interleave import interleave
from attar.bench.process import REPEAT_SECONDS, Failed, Inputs, Job, Subject, Worker
from attar.facts import Measurement, SpentFacts


@dataclass
class Taken:
    """What was measured of one model with one batch size, over the same interleaved repeats as of all others."""

    latency: Measurement
    repeats: list[float]
    """Medians, milliseconds."""
    spent: list[SpentFacts]
    """Of one row."""
    peak_bytes: int | None


@dataclass
class Measured:
    """One model."""

    runtime: str | None = None
    load_seconds: float | None = None
    batches: dict[int, Taken] = field(default_factory=dict[int, Taken])
    reasons: list[str] = field(default_factory=list[str])
    """Why something was not measured."""


def measure(
    subjects: Mapping[str, Subject],
    batches: Sequence[int],
    *,
    threads: int,
    repeats: int,
    seconds: float = REPEAT_SECONDS,
    together: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Measured]:
    """Every subject with every batch size; a repeat takes about `seconds`.

    The processes are started one after another, so that each loads by itself (`together`: all at once, where how long
    that takes is of no interest), and stay warm; then one at a time works while the others wait, smaller batches
    first. One that fails is left out from there on, with its reason.
    """
    found = {name: Measured() for name in subjects}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attar-bench-")))
        workers: dict[str, Worker] = {}
        started = (
            (name, stack.enter_context(Worker(subject, folder / str(number), threads)))
            for number, (name, subject) in enumerate(subjects.items())
        )
        for name, worker in list(started) if together else started:
            say(f"loading {name}")
            try:
                worker.ready()
            except Failed as failed:
                found[name].reasons.append(f"not measured: {failed}")
                continue
            workers[name] = worker
            found[name].runtime, found[name].load_seconds = worker.runtime, worker.load_seconds
        for batch in sorted(batches):
            say(f"batches of {batch}: {len(workers)} models, {repeats} interleaved repeats")
            for name in _measure_batch(workers, batch, found, threads=threads, repeats=repeats, seconds=seconds):
                del workers[name]
    return found


def repeated(inputs: Inputs, rows: int) -> Inputs:
    """The same row, so many times over: nothing is padded."""
    return {name: np.repeat(value, rows, axis=0) for name, value in inputs.items()}


def _measure_batch(
    workers: Mapping[str, Worker], batch: int, found: Mapping[str, Measured], *, threads: int, repeats: int,
    seconds: float,
) -> list[str]:  # fmt: skip
    """Measure one batch size into `found`; returns who failed."""
    failed: list[str] = []

    def give_up(name: str, why: Failed) -> float:
        failed.append(name)
        found[name].reasons.append(f"batch {batch}: not measured: {why}")
        return math.nan

    jobs: dict[str, Job] = {}
    for name, worker in workers.items():
        try:
            jobs[name] = worker.job(repeated(worker.subject.inputs, batch), seconds)
        except Failed as why:
            give_up(name, why)

    def once(name: str) -> float:
        if name in failed:
            return math.nan
        try:
            return jobs[name].median()
        except Failed as why:
            return give_up(name, why)

    medians = interleave({name: lambda name=name: once(name) for name in jobs}, repeats)
    for name, job in jobs.items():
        if name not in failed:
            each = [1000 * value for value in medians[name]]
            peak = workers[name].peak_bytes()
            found[name].batches[batch] = Taken(_measurement(job, each, threads), each, job.taken, peak)
    return failed


def _measurement(job: Job, medians: list[float], threads: int) -> Measurement:
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
