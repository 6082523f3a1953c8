"""An ExecuTorch file answering through ExecuTorch's runtime and XNNPACK, which this file owns; it needs torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from attar.errors import ExportError
from attar.export.packages import need
from attar.export.quiet import reason, silent
from attar.export.runtimes.base import OUTPUT, Array, Runner
from attar.export.runtimes.static import Shapes

MODEL = "model.pte"


class ExecuTorchRunner(Runner):
    """A method on the CPU. Its shapes are fixed: a batch is one call a row."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Open an export's folder. Raises ExportError, MissingExtra."""
        package = need("executorch.runtime", "executorch", "Running an ExecuTorch file")
        library = need("executorch.extension.pybindings.portable_lib", "executorch", "Running an ExecuTorch file")
        self.runtime = f"executorch {version('executorch')}"
        self._shapes = Shapes.read(folder)
        try:
            with silent():
                library._unsafe_reset_threadpool(threads)
                self._method: Any = package.Runtime.get().load_program(folder / MODEL).load_method("forward")
        except Exception as error:  # the runtime raises RuntimeError for all that can go wrong
            raise ExportError(
                f"{folder / MODEL}: {self.runtime} cannot run it ({reason(error)}). Export again, or install a newer "
                "executorch."
            ) from error
        self.inputs = list(self._shapes.inputs)
        self.outputs = [OUTPUT]
        self.classes = int(self._method.metadata.output_tensor_meta(0).sizes()[-1])

    def prepared(self, inputs: dict[str, Array]) -> Callable[[], Array]:
        """One call a row."""
        torch = need("torch", "executorch", "Running an ExecuTorch file")
        rows = [
            [torch.from_numpy(np.ascontiguousarray(row[name], _type(row[name]))) for name in self.inputs]
            for row in self._shapes.rows(inputs)
        ]
        return lambda: np.concatenate([np.asarray(self._method.execute(row)[0], np.float32) for row in rows])


def _type(value: Array) -> type[np.generic]:
    return np.float32 if np.issubdtype(value.dtype, np.floating) else np.int64
