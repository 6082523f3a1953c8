"""The parent's side of one measuring process: what it loads, what it is asked, and what its answers come to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np

from attar.bench.protocol import Kind, Load
from attar.errors import AttarError
from attar.facts import SpentFacts
from attar.recipe.task import TaskSpec
from attar.recipe.teacher import LocalTeacherSpec

WARM_UP_SECONDS = 0.2
REPEAT_SECONDS = 0.2
_FEWEST, _MOST = 5, 500
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """A model to measure and one batch for it: `inputs` by name, arrays with a first dimension of rows."""

    kind: Kind
    """artifact: the folder of a classifier's export; onnx: a .onnx file; folder: a Transformers (or timm) folder with a
    head; fitted: a folder of the fitting stage; local: a teacher by its spec."""
    inputs: Inputs
    path: Path | None = None
    task: TaskSpec | None = None
    labels: tuple[str, ...] = ()
    teacher: LocalTeacherSpec | None = None
    opens: str = ""
    """Of an artifact: its kind."""
    dtype: str = "float32"


class Failed(AttarError):
    """A worker could not go on; the message is its reason."""


class Worker:
    """One process that holds one model, warm and waiting."""

    def __init__(self, subject: Subject, folder: Path, threads: int) -> None:
        """`folder`: where its inputs are put; it is this worker's alone."""
        self.subject = subject
        self.runtime = ""
        self.load_seconds = 0.0
        self._folder = folder
        folder.mkdir()
        load = Load(
            kind=subject.kind,
            path=subject.path,
            inputs=self._file(subject.inputs),
            threads=threads,
            opens=subject.opens,
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
        self._ask(load=load.model_dump(mode="json"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def ready(self) -> None:
        """Wait until the model stands. Raises Failed."""
        ready = self._answer()["ready"]
        self.runtime, self.load_seconds = str(ready["runtime"]), float(ready["seconds"])

    def peak_bytes(self) -> int | None:
        """The most memory that the process has held, its runtime included; None where the system does not tell."""
        self._ask(memory=True)
        found = self._answer()["bytes"]
        return None if found is None else int(found)

    def job(self, inputs: Inputs, seconds: float = REPEAT_SECONDS) -> Job:
        """A batch of the model, run until it is warm; a repeat of it takes about `seconds`. Raises Failed."""
        job = Job(self, self._file(inputs), inputs)
        spent, longest = 0.0, 0.0
        while spent < min(WARM_UP_SECONDS, seconds):
            taken, _ = self.time(job.file, _FEWEST)
            spent, longest = spent + sum(taken), float(np.median(taken))
        job.calls = int(np.clip(seconds / longest, _FEWEST, _MOST))
        return job

    def time(self, file: Path, calls: int) -> tuple[list[float], SpentFacts]:
        """Seconds of each call, and what all of them took."""
        self._ask(time=calls, inputs=str(file))
        answer = self._answer()
        seconds = [float(value) for value in answer["seconds"]]
        return seconds, SpentFacts(
            seconds=sum(seconds), cpu_seconds=answer["cpu_seconds"], processor_joules=answer["joules"]
        )

    def _file(self, inputs: Inputs) -> Path:
        file = self._folder / f"{len(list(self._folder.iterdir()))}.npz"
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in inputs.items()}
        np.savez(file, **arrays)
        return file

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
            raise Failed(f"its process ended with code {self._process.wait()}: {last[0]}")
        answer = cast("dict[str, Any]", json.loads(line))
        if "error" in answer:
            raise Failed(str(answer["error"]))
        return answer


class Job:
    """One batch of one worker, timed again and again."""

    def __init__(self, worker: Worker, file: Path, inputs: Inputs) -> None:
        self.worker, self.file = worker, file
        self.rows = len(next(iter(inputs.values())))
        self.shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in inputs.items())
        self.calls = _FEWEST
        self.seconds = list[float]()
        """Of every call of every repeat."""
        self.taken = list[SpentFacts]()
        """What one row took, in each repeat."""

    def median(self) -> float:
        """Median seconds of the calls of one repeat; the calls are kept."""
        seconds, spent = self.worker.time(self.file, self.calls)
        self.seconds += seconds
        rows, joules = self.calls * self.rows, spent.processor_joules
        self.taken.append(
            SpentFacts(
                seconds=spent.seconds / rows,
                cpu_seconds=spent.cpu_seconds / rows,
                processor_joules=None if joules is None else joules / rows,
            )
        )
        return float(np.median(seconds))
