"""An exported file answering through onnxruntime, which this file owns."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from attar.errors import ExportError, MissingExtra
from attar.export.graph import OUTPUT
from attar.export.quiet import reason
from attar.tasks.base import Encoded, Processor, Task

Inputs = Mapping[str, "Tensor | np.ndarray"]
MODEL = "model.onnx"
_FATAL = 3


class OnnxRunner:
    """A session on the CPU. `inputs` and `outputs` are the graph's names, `runtime` says which onnxruntime runs it."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Open a .onnx file, or the folder of an export. Raises ExportError, MissingExtra."""
        file = graph_in(path) if path.is_dir() else path
        self._session, self.runtime = open_session(file, threads)
        self.inputs: list[str] = [one.name for one in self._session.get_inputs()]
        self.outputs: list[str] = [one.name for one in self._session.get_outputs()]
        self._classes = int(next(one.shape[-1] for one in self._session.get_outputs() if one.name == OUTPUT))
        self._types = {one.name: tensor_type(one.type) for one in self._session.get_inputs()}

    def __call__(self, inputs: Inputs) -> np.ndarray:
        """Logits float32 [N, C] of one batch; inputs that the graph does not have are left out."""
        absent = [name for name in self.inputs if name not in inputs]
        if absent:
            raise ExportError(f"the file needs the inputs {self.inputs}, but {absent} are not among {sorted(inputs)}.")
        feed = {name: np.asarray(inputs[name], dtype=self._types[name]) for name in self.inputs}
        return np.asarray(self._session.run([OUTPUT], feed)[0], np.float32)

    def logits(self, batches: Iterable[Inputs]) -> np.ndarray:
        """Logits float32 [N, C] of all batches, in their order; without any, N is 0."""
        answered = [self(batch) for batch in batches]
        return np.concatenate(answered) if answered else np.empty((0, self._classes), np.float32)


def single_rows(task: Task, encoded: Encoded, processor: Processor) -> Iterator[dict[str, Tensor]]:
    """Every row as a batch of its own, unpadded: as the file is used and as its latency is measured.

    Dynamic int8 scales activations over a whole batch, so only single rows give answers that do not depend on company.
    """
    return batches(task, encoded, [[row] for row in range(len(encoded))], processor)


def batches(
    task: Task, encoded: Encoded, groups: Iterable[Sequence[int]], processor: Processor
) -> Iterator[dict[str, Tensor]]:
    """Padded batches of the given groups of rows."""
    return (task.batch(encoded, group, processor) for group in groups)


def graph_in(folder: Path) -> Path:
    """The graph in an export's folder: `model.onnx`, or in the layout of transformers.js the one below `onnx/`."""
    return next(iter(sorted(folder.glob("onnx/*.onnx"))), folder / MODEL)


def open_session(file: Path, threads: int) -> tuple[Any, str]:
    """An onnxruntime session on the CPU, and which onnxruntime it is. Raises ExportError, MissingExtra."""
    ort = _onnxruntime()
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


def arrays(batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """A batch as numpy arrays."""
    return {name: value.cpu().numpy() for name, value in batch.items()}


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx", "Running an ONNX file") from error


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
