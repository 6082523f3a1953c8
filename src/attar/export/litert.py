"""The LiteRT exporter: from torch.export to model.tflite; int8 by the AI Edge quantizer.

One row a call, texts padded to one length; inputs that were int64 are int32 there. int8 scales activations at run time,
in convolutional nets too: calibrated ranges spoil their answers (docs/edge.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.errors import ExportError
from attar.export.exporter import Made, Trained
from attar.export.fixed import fixed_rows
from attar.export.graph import NamedLogits
from attar.export.packages import need
from attar.export.quiet import reason, silent
from attar.export.runtimes.litert import MODEL
from attar.export.runtimes.static import KEY
from attar.recipe.outcome import LiteRTSpec

_MOST_LEFT = 0.5
"""int8 is refused where more than this share of the weights' bytes stays float."""


def export_litert(student: Trained, spec: LiteRTSpec, folder: Path) -> Made:
    """An `Exporter`."""
    package = need("litert_torch", "litert", "LiteRT export")
    name = type(student.model).__name__
    shapes, (row,) = fixed_rows(student, spec, 1)
    module = NamedLogits(student.model).eval()
    try:
        with silent():
            content = package.convert(module, sample_kwargs=row).model_content()
    except Exception as error:  # the converter lets errors of every part of it through
        raise ExportError(
            f"LiteRT: {name} cannot be converted ({reason(error)}). Choose another student architecture, or "
            "`kind: onnx`."
        ) from error
    (folder / MODEL).write_bytes(content)
    if spec.precision == "int8":
        _quantize(folder / MODEL)
    note = "fp32" if spec.precision == "fp32" else "dynamic int8"
    tokens = "" if shapes.length is None else f", texts padded to {shapes.length} tokens"
    return Made(MODEL, f"{note}{tokens}", card={KEY: shapes.card()})


def _quantize(file: Path) -> None:
    """Quantize a file in place. Raises ExportError where most weights stay as they are."""
    quantizer = need("ai_edge_quantizer.quantizer", "litert", "int8 export to LiteRT")
    recipe = need("ai_edge_quantizer.recipe", "litert", "int8 export to LiteRT")
    before = _float_bytes(file)
    try:
        with silent():
            made: Any = quantizer.Quantizer(bytearray(file.read_bytes()))
            made.load_quantization_recipe(recipe.dynamic_wi8_afp32())
            small = bytes(made.quantize(enable_progress_report=False).quantized_model)
    except Exception as error:  # the quantizer raises whatever its own parts raise
        raise ExportError(
            f"LiteRT int8: the quantizer failed ({reason(error)}). Use `precision: fp32` for this student."
        ) from error
    file.write_bytes(small)
    left = _float_bytes(file)
    if left > _MOST_LEFT * before:
        raise ExportError(
            f"LiteRT int8: {left} of {before} bytes of weights stand where the quantizer does not reach. Use "
            "`precision: fp32` for this student."
        )


def _float_bytes(file: Path) -> int:
    """Bytes of a file's float32 constants."""
    flat = need("ai_edge_quantizer.utils.tfl_flatbuffer_utils", "litert", "int8 export to LiteRT")
    model = flat.read_model(str(file))
    constants = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors if tensor.type == 0}
    return sum(len(model.buffers[place].data) for place in constants if model.buffers[place].data is not None)
