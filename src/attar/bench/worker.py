"""One model in a process of its own, warm and waiting: `python -m attar.bench.worker`, spoken to as in `protocol`.

An ONNX file is run without importing torch, as it is in production.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np

from attar.bench.protocol import Load
from attar.errors import AttarError, MissingExtra

Call = Callable[[], object]


def prepare(load: Load) -> tuple[Call, str]:
    """The forward pass to time and the name of its runtime."""
    with np.load(load.inputs) as file:
        inputs = {name: file[name] for name in file.files}
    return _onnx(load, inputs) if load.kind == "onnx" else _torch(load, inputs)


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


def _onnx(load: Load, inputs: dict[str, np.ndarray]) -> tuple[Call, str]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx", "Measuring an ONNX file") from error
    ort = cast("Any", onnxruntime)
    options = ort.SessionOptions()
    options.intra_op_num_threads = load.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(load.path), options, providers=["CPUExecutionProvider"])
    feed = {one.name: inputs[one.name] for one in session.get_inputs()}
    return lambda: session.run(None, feed), f"onnxruntime {ort.__version__}"


def _torch(load: Load, inputs: dict[str, np.ndarray]) -> tuple[Call, str]:
    import torch

    torch.set_num_threads(load.threads)
    model = _model(load)
    batch = {name: torch.from_numpy(value) for name, value in inputs.items()}

    def call() -> object:
        with torch.inference_mode():
            return model(**batch)

    return call, f"torch {torch.__version__}, eager"


def _model(load: Load) -> Any:
    from pydantic import TypeAdapter

    from attar.recipe.task import TaskSpec
    from attar.recipe.teacher import LocalTeacherSpec
    from attar.tasks import make_task

    task = make_task(TypeAdapter[TaskSpec](TaskSpec).validate_json(json.dumps(load.task)), load.labels)
    match load.kind:
        case "fitted":
            from attar.teachers.fitting import load_fitted

            return load_fitted(cast("Path", load.path), task).model.eval()
        case "local":
            from attar.teachers.local import load_local

            spec = LocalTeacherSpec.model_validate_json(json.dumps(load.teacher))
            return load_local(spec, task, folder=load.path).model.eval()
        case _:
            return task.load_model(cast("Path", load.path)).eval()


def serve(questions: TextIO, replies: TextIO) -> None:
    """Answer questions until there are no more."""

    def reply(**answer: Any) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    call: Call | None = None
    for line in questions:
        question = json.loads(line)
        try:
            if "load" in question:
                call, runtime = prepare(Load.model_validate_json(json.dumps(question["load"])))
                gc.collect()
                gc.freeze()  # what was loaded is never looked through again
                reply(ready={"runtime": runtime})
            else:
                assert call is not None
                reply(seconds=timed(call, int(question["time"])))
        except Exception as error:  # whatever a model does wrong is the parent's to report, as "not measured"
            reason = str(error) if isinstance(error, AttarError) else f"{type(error).__name__}: {error}"
            reply(error=reason)
            return


if __name__ == "__main__":
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, answers)
