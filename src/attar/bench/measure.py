"""Latency of several models side by side: each in its own warm process, measured in turn, one row at a time.

By definition: the model alone (the tokenizer apart), a row of median length, unpadded, threads stated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np

from attar.bench.interleave import interleave
from attar.bench.protocol import Kind, Load
from attar.errors import AttarError
from attar.facts import Measurement
from attar.recipe.task import TaskSpec
from attar.recipe.teacher import LocalTeacherSpec
from attar.tasks.base import Encoded

WARM_UP_SECONDS = 0.2
REPEAT_SECONDS = 0.2
_FEWEST, _MOST = 5, 500
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Subject:
    """A model to measure and one batch for it: `inputs` by name, arrays with a first dimension of rows."""

    kind: Kind
    """onnx: a .onnx file; folder: a Transformers (or timm) folder with a head; fitted: a folder of the fitting stage;
    local: a teacher by its spec."""
    inputs: Mapping[str, np.ndarray]
    path: Path | None = None
    task: TaskSpec | None = None
    labels: tuple[str, ...] = ()
    teacher: LocalTeacherSpec | None = None
    dtype: str = "float32"


@dataclass(frozen=True)
class Latencies:
    """What was measured, in milliseconds, and why the rest was not."""

    measured: dict[str, Measurement] = field(default_factory=dict[str, Measurement])
    repeats: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Medians of the interleaved repeats, milliseconds: what `interleave.ratio` takes."""
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    """By model: why it was not measured."""


def median_row(encoded: Encoded) -> int:
    """The first row whose length is the (lower) median of all."""
    order = np.argsort(encoded.lengths, kind="stable")
    return int(order[(len(order) - 1) // 2])


def latency(subjects: Mapping[str, Subject], *, threads: int = 1, repeats: int = 9) -> Latencies:
    """Milliseconds of one call of each subject: the median over interleaved repeats of the median of their calls.

    All processes are started first and stay warm; then one at a time works while the others wait. A subject that fails
    is left out with its reason; the others are measured.
    """
    found = Latencies()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attar-bench-")))
        workers = {
            name: stack.enter_context(_Worker(subject, folder / f"{i}.npz", threads))
            for i, (name, subject) in enumerate(subjects.items())
        }
        for name, worker in list(workers.items()):
            try:
                worker.warm_up()
            except _Failed as failed:
                found.reasons[name] = f"not measured: {failed}"
                del workers[name]
        medians = interleave({name: worker.median for name, worker in workers.items()}, repeats)
    for name, worker in workers.items():
        found.repeats[name] = [1000 * value for value in medians[name]]
        found.measured[name] = _measurement(worker, found.repeats[name], threads)
    return found


class _Failed(AttarError):
    """A worker could not go on; the message is its reason."""


class _Worker:
    """The parent's side of one process."""

    def __init__(self, subject: Subject, inputs: Path, threads: int) -> None:
        self.subject = subject
        self.seconds: list[float] = []
        self.calls = _FEWEST
        self.runtime = ""
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in subject.inputs.items()}
        np.savez(inputs, **arrays)
        self._load = Load(
            kind=subject.kind,
            path=subject.path,
            inputs=inputs,
            threads=threads,
            task=None if subject.task is None else subject.task.model_dump(mode="json"),
            labels=subject.labels,
            teacher=None if subject.teacher is None else subject.teacher.model_dump(mode="json"),
        )
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "attar.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            env=os.environ | dict.fromkeys(_THREAD_SETTINGS, str(threads)),
        )
        self._ask(load=self._load.model_dump(mode="json"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def warm_up(self) -> None:
        """Wait until the model stands, run it until it is warm, and find how many calls fill a repeat."""
        self.runtime = str(self._answer()["ready"]["runtime"])
        spent, longest = 0.0, 0.0
        while spent < WARM_UP_SECONDS:
            seconds = self._time(_FEWEST)
            spent, longest = spent + sum(seconds), float(np.median(seconds))
        self.calls = int(np.clip(REPEAT_SECONDS / longest, _FEWEST, _MOST))

    def median(self) -> float:
        """Median seconds of one repeat; its calls are kept."""
        seconds = self._time(self.calls)
        self.seconds += seconds
        return float(np.median(seconds))

    def _time(self, calls: int) -> list[float]:
        self._ask(time=calls)
        return [float(value) for value in self._answer()["seconds"]]

    def _ask(self, **question: Any) -> None:
        stream = cast("Any", self._process.stdin)
        try:
            stream.write(json.dumps(question) + "\n")
            stream.flush()
        except BrokenPipeError:
            pass  # the answer that is waited for next says why

    def _answer(self) -> dict[str, Any]:
        line = cast("Any", self._process.stdout).readline()
        if not line:
            self._stderr.seek(0)
            last = self._stderr.read().strip().splitlines()[-1:] or ["no message"]
            raise _Failed(f"its process ended with code {self._process.wait()}: {last[0]}")
        answer = cast("dict[str, Any]", json.loads(line))
        if "error" in answer:
            raise _Failed(str(answer["error"]))
        return answer


def _measurement(worker: _Worker, medians: list[float], threads: int) -> Measurement:
    shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in worker.subject.inputs.items())
    return Measurement(
        value=float(np.median(medians)),
        unit="ms",
        n=len(medians),
        lo=min(medians),
        hi=max(medians),
        p95=1000 * float(np.quantile(worker.seconds, 0.95)),
        device="cpu",
        threads=threads,
        dtype=worker.subject.dtype,
        method=f"{worker.runtime}; the model alone, one unpadded row of median length ({shapes}); own process, "
        f"{len(medians)} interleaved repeats of {worker.calls} calls, medians",
    )
