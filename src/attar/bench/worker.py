"""One model in a process of its own, warm and waiting: `python -m attar.bench.worker`, spoken to as in `protocol`.

An exported file is run without importing torch where its runtime needs none, as it is in production.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np

from attar.bench.energy import Rapl, read
from attar.bench.protocol import Load
from attar.errors import AttarError
from attar.export.runtimes import open_artifact
from attar.export.runtimes.onnx import open_session

Call = Callable[[], object]
Inputs = dict[str, np.ndarray]
Bind = Callable[[Inputs], Call]
"""From a batch to the forward pass of it."""
_PACKAGES = {
    "onnx": "onnxruntime",
    "web": "onnxruntime",
    "openvino": "openvino",
    "litert": "ai_edge_litert.interpreter",
    "executorch": "executorch.runtime",
    "coreml": "coremltools",
}
"""What each kind of export runs on: imported before the time of loading begins."""


def prepare(load: Load) -> Callable[[], tuple[Bind, str]]:
    """Import the runtime; returns what opens the model, and names its runtime."""
    match load.kind:
        case "artifact":
            return _artifact(load)
        case "onnx":
            return _onnx(load)
        case _:
            return _torch(load)


def read_inputs(file: Path) -> Inputs:
    """One batch."""
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def timed(call: Call, calls: int) -> list[float]:
    """Seconds of each of `calls` calls, without garbage collection in between."""
    seconds: list[float] = []
    gc.disable()
    try:
        for _ in range(calls):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return seconds


def peak_bytes() -> int | None:
    """The most memory that this process has held; None where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _artifact(load: Load) -> Callable[[], tuple[Bind, str]]:
    with suppress(ImportError):  # who opens the file says how to install it
        importlib.import_module(_PACKAGES.get(load.opens, "numpy"))

    def opened() -> tuple[Bind, str]:
        runner = open_artifact(load.opens, cast("Path", load.path), load.threads)
        return runner.ready, runner.runtime

    return opened


def _onnx(load: Load) -> Callable[[], tuple[Bind, str]]:
    with suppress(ImportError):
        importlib.import_module(_PACKAGES["onnx"])

    def opened() -> tuple[Bind, str]:
        session, runtime = open_session(cast("Path", load.path), load.threads)
        names = [one.name for one in session.get_inputs()]

        def bind(inputs: Inputs) -> Call:
            feed = {name: inputs[name] for name in names}
            return lambda: session.run(None, feed)

        return bind, runtime

    return opened


def _torch(load: Load) -> Callable[[], tuple[Bind, str]]:
    import torch

    torch.set_num_threads(load.threads)
    load_model = _loader(load)

    def opened() -> tuple[Bind, str]:
        model = load_model()

        def bind(inputs: Inputs) -> Call:
            batch = {name: torch.from_numpy(value) for name, value in inputs.items()}

            def call() -> object:
                with torch.inference_mode():
                    return model(**batch)

            return call

        return bind, f"torch {torch.__version__}, eager"

    return opened


def _loader(load: Load) -> Callable[[], Any]:
    from pydantic import TypeAdapter

    from attar.recipe.task import TaskSpec
    from attar.recipe.teacher import LocalTeacherSpec
    from attar.tasks import make_task

    task = make_task(TypeAdapter[TaskSpec](TaskSpec).validate_json(json.dumps(load.task)), load.labels)
    folder = cast("Path", load.path)
    match load.kind:
        case "fitted":
            from attar.teachers.fitting import load_fitted

            return lambda: load_fitted(folder, task).model.eval()
        case "local":
            from attar.teachers.local import load_local

            spec = LocalTeacherSpec.model_validate_json(json.dumps(load.teacher))
            return lambda: load_local(spec, task, folder=load.path).model.eval()
        case _:
            return lambda: task.load_model(folder).eval()


def serve(questions: TextIO, replies: TextIO) -> None:
    """Answer questions until there are no more."""

    def reply(**answer: Any) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    worker = _Served()
    for line in questions:
        question = json.loads(line)
        try:
            reply(**worker.answer(question))
        except Exception as error:  # whatever a model does wrong is the parent's to report, as "not measured"
            reason = str(error) if isinstance(error, AttarError) else f"{type(error).__name__}: {error}"
            reply(error=reason)
            return


class _Served:
    """What the worker holds from one question to the next."""

    def __init__(self) -> None:
        self._bind: Bind | None = None
        self._first = ""
        self._calls: dict[str, Call] = {}
        """By the file of their inputs; that of the first is `_first`."""
        self._rapl = Rapl.find()

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if "load" in question:
            return self._load(Load.model_validate_json(json.dumps(question["load"])))
        if "memory" in question:
            return {"bytes": peak_bytes()}
        call = self._call(question.get("inputs", self._first))
        told, start = read(self._rapl), time.process_time()
        seconds = timed(call, int(question["time"]))
        spent, now = time.process_time() - start, read(self._rapl)
        joules = None if told is None or now is None else now - told
        return {"seconds": seconds, "cpu_seconds": spent, "joules": joules}

    def _load(self, load: Load) -> dict[str, Any]:
        opened, self._first = prepare(load), str(load.inputs)
        start = time.perf_counter()
        self._bind, runtime = opened()
        self._call(self._first)()
        seconds = time.perf_counter() - start
        gc.collect()
        gc.freeze()  # what was loaded is never looked through again
        return {"ready": {"runtime": runtime, "seconds": seconds}}

    def _call(self, file: str) -> Call:
        assert self._bind is not None, "a model is loaded before it is asked"
        if file not in self._calls:
            self._calls[file] = self._bind(read_inputs(Path(file)))
        return self._calls[file]


if __name__ == "__main__":
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, answers)
