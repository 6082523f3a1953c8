"""An OpenVINO file answering through OpenVINO's CPU plugin, which this file owns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from attar.errors import ExportError
from attar.export.packages import need
from attar.export.quiet import quiet, reason
from attar.export.runtimes.base import OUTPUT, Array, Runner

MODEL = "model.xml"

T = TypeVar("T")


class OpenVINORunner(Runner):
    """A compiled model on the CPU, in float32 where it is not int8. Batch and sequence are free."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Open an export's folder. Raises ExportError, MissingExtra."""
        package = openvino()
        version = str(package.__version__).split("-")[0]
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        try:
            with quiet():
                self._model: Any = apart(lambda: package.Core().compile_model(str(folder / MODEL), "CPU", settings))
        except Exception as error:  # openvino raises RuntimeError for all that can go wrong
            raise ExportError(
                f"{folder / MODEL}: openvino {version} cannot run it ({reason(error)}). Export again, or install a "
                "newer openvino."
            ) from error
        self.runtime = f"openvino {version}"
        self.inputs = [one.get_any_name() for one in self._model.inputs]
        self.outputs = [one.get_any_name() for one in self._model.outputs]
        self.classes = int(self._model.output(OUTPUT).get_partial_shape()[-1].get_length())
        self._types = {one.get_any_name(): np.dtype(one.get_element_type().to_dtype()) for one in self._model.inputs}

    def prepared(self, inputs: dict[str, Array]) -> Callable[[], Array]:
        """One call for the whole batch."""
        feed = {name: np.ascontiguousarray(value, self._types[name]) for name, value in inputs.items()}
        request = self._model.create_infer_request()
        return lambda: np.array(request.infer(feed, share_inputs=True)[OUTPUT], np.float32)


def openvino() -> Any:
    """The package, without its part that reports each import and conversion to its maker unasked: None in
    `sys.modules` is as if that were not installed. Raises MissingExtra.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    return need("openvino", "openvino", "Running an OpenVINO file")


def apart(call: Callable[[], T]) -> T:
    """What `call` returns, made in a thread of its own. OpenVINO's CPU plugin gives the thread that makes it a signal
    stack, and takes it back when it goes; of two that go in the order they came, the second leaves the thread the
    first one's, which is freed by then: the next signal that Python handles there (Ctrl-C, a data loader's worker that
    ends) kills the process. A thread that has ended handles none.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()
