"""An ONNX file answering through onnxruntime, which this file owns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attar.errors import ExportError
from attar.export.packages import need
from attar.export.quiet import reason
from attar.export.runtimes.base import OUTPUT, Array, Runner

MODEL = "model.onnx"
_FATAL = 3


class OnnxRunner(Runner):
    """A session on the CPU. Batch and sequence are free."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Open a .onnx file, or the folder of an export. Raises ExportError, MissingExtra."""
        file = graph_in(path) if path.is_dir() else path
        self._session, self.runtime = open_session(file, threads)
        self.inputs = [one.name for one in self._session.get_inputs()]
        self.outputs = [one.name for one in self._session.get_outputs()]
        self.classes = int(next(one.shape[-1] for one in self._session.get_outputs() if one.name == OUTPUT))
        self._types = {one.name: tensor_type(one.type) for one in self._session.get_inputs()}

    def prepared(self, inputs: dict[str, Array]) -> Callable[[], Array]:
        """One call for the whole batch."""
        feed = {name: value.astype(self._types[name], copy=False) for name, value in inputs.items()}
        return lambda: np.asarray(self._session.run([OUTPUT], feed)[0], np.float32)


def graph_in(folder: Path) -> Path:
    """The graph in an export's folder: `model.onnx`, or in the layout of transformers.js the one below `onnx/`."""
    return next(iter(sorted(folder.glob("onnx/*.onnx"))), folder / MODEL)


def open_session(file: Path, threads: int) -> tuple[Any, str]:
    """An onnxruntime session on the CPU, and which onnxruntime it is. Raises ExportError, MissingExtra."""
    ort = need("onnxruntime", "onnx", "Running an ONNX file")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    try:
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # one class of error a cause, none of them public
        raise ExportError(
            f"{file}: onnxruntime {ort.__version__} cannot run it ({reason(error)}). Export again with another "
            "`opset` or `precision`, or install a newer onnxruntime."
        ) from error
    return session, f"onnxruntime {ort.__version__}"


def tensor_type(name: str) -> type[np.generic]:
    """Numpy's type of onnxruntime's `tensor(…)`."""
    known = {
        "tensor(int64)": np.int64,
        "tensor(int32)": np.int32,
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(bool)": np.bool_,
    }
    return known[name]
