"""The ONNX exporter: the graph, int8 if asked; for `web` where transformers.js looks for it.

export/onnx-PRECISION/model.onnx   labels and temperature also stand in its properties
export/web-PRECISION/onnx/         model.onnx (fp32) or model_quantized.onnx (int8)
"""

from __future__ import annotations

import json
from pathlib import Path

from attar.export.exporter import Made, Trained
from attar.export.graph import save_graph
from attar.export.quantize import quantize
from attar.export.runtimes.onnx import MODEL
from attar.recipe.outcome import OnnxSpec, WebSpec

_WEB = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
"""Names that transformers.js gives to the graph."""


def export_onnx(student: Trained, spec: OnnxSpec | WebSpec, folder: Path) -> Made:
    """An `Exporter`."""
    made, method = student.graph(spec.opset), "fp32"
    if spec.precision == "int8":
        made, method = quantize(made, student.calibration(spec.calibration_rows))
    task = student.task
    told = {"labels": list(task.labels), "temperature": student.temperature, "problem": task.problem}
    name = _WEB[spec.precision] if isinstance(spec, WebSpec) else MODEL
    (folder / name).parent.mkdir(exist_ok=True)
    save_graph(made, folder / name, {f"attar.{key}": json.dumps(value) for key, value in told.items()})
    return Made(name, method, card={"opset": spec.opset})
