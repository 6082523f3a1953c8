"""A LiteRT file answering through LiteRT's interpreter and XNNPACK, which this file owns."""

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

MODEL = "model.tflite"
SIGNATURE = "serving_default"


class LiteRTRunner(Runner):
    """An interpreter on the CPU. Its shapes are fixed: a batch is one call a row."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Open an export's folder. Raises ExportError, MissingExtra."""
        package = need("ai_edge_litert.interpreter", "litert", "Running a LiteRT file")
        self.runtime = f"litert {version('ai-edge-litert')}"
        self._shapes = Shapes.read(folder)
        try:
            with silent():
                self._interpreter: Any = package.Interpreter(str(folder / MODEL), num_threads=threads)
                self._interpreter.allocate_tensors()
                signature = self._interpreter.get_signature_runner(SIGNATURE)
        except Exception as error:  # the interpreter raises ValueError and RuntimeError for all that can go wrong
            raise ExportError(
                f"{folder / MODEL}: {self.runtime} cannot run it ({reason(error)}). Export again, or install a newer "
                "ai-edge-litert."
            ) from error
        given = signature.get_input_details()
        (answer,) = signature.get_output_details().values()
        order = [one["index"] for one in self._interpreter.get_input_details()]
        self.inputs = sorted(given, key=lambda name: order.index(given[name]["index"]))
        self.outputs = [OUTPUT]
        self.classes = int(answer["shape"][-1])
        self._types = {name: one["dtype"] for name, one in given.items()}
        self._places = {name: one["index"] for name, one in given.items()}
        self._answer = answer["index"]

    def prepared(self, inputs: dict[str, Array]) -> Callable[[], Array]:
        """One call a row."""
        rows = [
            [(self._places[name], np.ascontiguousarray(value, self._types[name])) for name, value in row.items()]
            for row in self._shapes.rows(inputs)
        ]
        return lambda: np.concatenate([self._one(row) for row in rows])

    def _one(self, row: list[tuple[int, Array]]) -> Array:
        for place, value in row:
            self._interpreter.set_tensor(place, value)
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_tensor(self._answer), np.float32)
