"""A Core ML file answering through Apple's runtime, which macOS alone has, by coremltools, which this file owns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from attar.errors import ExportError, ParityError
from attar.export.packages import need
from attar.export.quiet import reason, silent
from attar.export.runtimes.base import OUTPUT, Array, Runner
from attar.export.runtimes.static import Shapes

MODEL = "model.mlpackage"
PROGRAM = f"{MODEL}/Data/com.apple.CoreML/model.mlmodel"
"""Its program, whose hash is the file's; the weights stand in a folder beside it."""
_IS_MAC = sys.platform == "darwin"


class CoreMLRunner(Runner):
    """A model on the CPU. Its shapes are fixed: a batch is one call a row."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Open an export's folder; Core ML chooses its `threads` itself. Raises ExportError, MissingExtra.

        Raises ParityError where this is no Mac.
        """
        if not _IS_MAC:
            raise ParityError(
                f"export coreml: {MODEL} is written, but Core ML answers on macOS alone, so nothing has "
                "compared it with the checkpoint. It is not handed over. Export the run again on a Mac, or use "
                "`kind: executorch`, which runs on iOS, too."
            )
        tools = need("coremltools", "coreml", "Running a Core ML file")
        self.runtime = f"coreml through coremltools {version('coremltools')}"
        self._shapes = Shapes.read(folder)
        self.inputs = list(self._shapes.inputs)
        self.outputs = [OUTPUT]
        try:
            with silent():
                units = tools.ComputeUnit.CPU_ONLY
                self._model: Any = tools.models.MLModel(str(folder / MODEL), compute_units=units)
                self.classes = int(self._model.get_spec().description.output[0].type.multiArrayType.shape[-1])
        except Exception as error:  # coremltools raises whatever Apple's runtime tells
            raise ExportError(
                f"{folder / MODEL}: {self.runtime} cannot run it ({reason(error)}). Export again."
            ) from error

    def prepared(self, inputs: dict[str, Array]) -> Callable[[], Array]:
        """One call a row."""
        single = {name: np.ascontiguousarray(value, np.float32) for name, value in inputs.items()}
        rows = self._shapes.rows(single)
        return lambda: np.concatenate([np.asarray(self._model.predict(row)[OUTPUT], np.float32) for row in rows])
