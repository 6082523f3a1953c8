"""The OpenVINO exporter: from the ONNX graph to model.xml and model.bin; int8 by NNCF, calibrated on training rows.

Batch and sequence stay free. Weights stay float32: OpenVINO's own default halves them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from attar.errors import ExportError
from attar.export.exporter import Made, Trained
from attar.export.graph import save_graph
from attar.export.packages import need
from attar.export.quiet import quiet, reason
from attar.export.runtimes.openvino import MODEL, apart, openvino
from attar.recipe.outcome import OpenVINOSpec

_OPSET = 20
_WEIGHTS = "model.bin"


def export_openvino(student: Trained, spec: OpenVINOSpec, folder: Path) -> Made:
    """An `Exporter`."""
    package, note = openvino(), "fp32"
    graph, kind = student.graph(_OPSET), type(student.model).__name__
    with tempfile.TemporaryDirectory(prefix="attar-openvino-") as place:
        source = Path(place) / "model.onnx"
        save_graph(graph, source, {})
        try:
            with quiet():
                model = package.convert_model(str(source))
        except Exception as error:  # the converter lets errors of every part of it through
            raise ExportError(
                f"OpenVINO: {kind} cannot be converted ({reason(error)}). Choose another student architecture, or "
                "`kind: onnx`."
            ) from error
        if spec.precision == "int8":
            model, note = _quantized(model, student, spec)
        package.save_model(model, str(folder / MODEL), compress_to_fp16=False)
    return Made(MODEL, note, (_WEIGHTS,))


def _quantized(model: Any, student: Trained, spec: OpenVINOSpec) -> tuple[Any, str]:
    nncf = need("nncf", "openvino", "int8 export to OpenVINO")
    rows = student.calibration(spec.calibration_rows, together=1)
    is_text = "input_ids" in rows[0]
    try:
        with quiet():
            small = apart(
                lambda: nncf.quantize(
                    model,
                    nncf.Dataset(rows),
                    subset_size=len(rows),
                    model_type=nncf.ModelType.TRANSFORMER if is_text else None,
                )
            )
    except Exception as error:  # nncf raises whatever its own parts raise
        raise ExportError(
            f"OpenVINO int8: NNCF failed ({reason(error)}). Use `precision: fp32` for this student."
        ) from error
    return small, f"static int8, calibrated on {len(rows)} training rows"
