"""The LiteRT exporter: from torch.export to model.tflite; int8 by the AI Edge quantizer.

One row a call, texts padded to one length; inputs that were int64 are int32 there. int8 of convolutional nets is
calibrated on training rows, that of transformers scales activations at run time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.errors import ExportError
from attar.export.exporter import Made, Trained
from attar.export.fixed import Rows, fixed_rows
from attar.export.graph import NamedLogits, is_convolutional
from attar.export.quiet import quiet, reason
from attar.export.runtimes.base import need
from attar.export.runtimes.litert import MODEL, SIGNATURE
from attar.export.runtimes.static import KEY
from attar.recipe.outcome import LiteRTSpec

_LEAST_SHARE = 0.5
"""int8 is refused where the file keeps more than this share of fp32's bytes."""


def export_litert(student: Trained, spec: LiteRTSpec, folder: Path) -> Made:
    """An `Exporter`."""
    package = need("litert_torch", "litert", "LiteRT export")
    name = type(student.model).__name__
    shapes, rows = fixed_rows(student, spec, spec.calibration_rows if spec.precision == "int8" else 1)
    module = NamedLogits(student.model).eval()
    try:
        with quiet():
            content = package.convert(module, sample_kwargs=dict(rows[0])).model_content()
    except Exception as error:  # the converter lets errors of every part of it through
        raise ExportError(
            f"LiteRT: {name} cannot be converted ({reason(error)}). Choose another student architecture, or "
            "`kind: onnx`."
        ) from error
    (folder / MODEL).write_bytes(content)
    note = "fp32"
    if spec.precision == "int8":
        note = _quantize(folder / MODEL, rows, static=is_convolutional(student.model))
    tokens = "" if shapes.length is None else f", texts padded to {shapes.length} tokens"
    return Made(MODEL, f"{note}{tokens}", card={KEY: shapes.card()})


def _quantize(file: Path, rows: Rows, *, static: bool) -> str:
    """Quantize a file in place; returns how."""
    quantizer = need("ai_edge_quantizer.quantizer", "litert", "int8 export to LiteRT")
    recipe = need("ai_edge_quantizer.recipe", "litert", "int8 export to LiteRT")
    before = file.read_bytes()
    try:
        with quiet():
            made: Any = quantizer.Quantizer(bytearray(before))
            made.load_quantization_recipe(recipe.static_wi8_ai8() if static else recipe.dynamic_wi8_afp32())
            found = None
            if static:
                found = made.calibrate({SIGNATURE: [{n: v.numpy() for n, v in row.items()} for row in rows]})
            small = bytes(made.quantize(found, enable_progress_report=False).quantized_model)
    except Exception as error:  # the quantizer raises whatever its own parts raise
        raise ExportError(
            f"LiteRT int8: the quantizer failed ({reason(error)}). Use `precision: fp32` for this student."
        ) from error
    if len(small) > _LEAST_SHARE * len(before):
        raise ExportError(
            f"LiteRT int8: the file has {len(small)} bytes, that of fp32 {len(before)}: most weights stand where the "
            "quantizer does not reach. Use `precision: fp32` for this student."
        )
    file.write_bytes(small)
    return f"static int8, calibrated on {len(rows)} training rows" if static else "dynamic int8"
