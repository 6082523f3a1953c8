"""The ExecuTorch exporter: from torch.export through XNNPACK to model.pte; int8 by pt2e, for convolutional nets.

One row a call, texts padded to one length. The quantizer of XNNPACK fails on transformers: docs/edge.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.errors import ExportError
from attar.export.exporter import Made, Trained
from attar.export.fixed import Rows, fixed_rows
from attar.export.graph import NamedLogits
from attar.export.packages import need
from attar.export.quiet import reason, silent
from attar.export.runtimes.executorch import MODEL
from attar.export.runtimes.static import KEY
from attar.recipe.outcome import ExecuTorchSpec
from attar.students.convolutional import is_convolutional

_PURPOSE = "ExecuTorch export"


def export_executorch(student: Trained, spec: ExecuTorchSpec, folder: Path) -> Made:
    """An `Exporter`."""
    need("executorch.exir", "executorch", _PURPOSE)
    name = type(student.model).__name__
    if spec.precision == "int8" and not is_convolutional(student.model):
        raise ExportError(
            f"ExecuTorch int8: XNNPACK's quantizer fails on transformers such as {name}. Use `precision: fp32`, or "
            "int8 of litert, openvino or onnx."
        )
    shapes, rows = fixed_rows(student, spec, spec.calibration_rows if spec.precision == "int8" else 1)
    note = "fp32 through XNNPACK"
    try:
        with silent(), torch.no_grad():
            program: Any = torch.export.export(NamedLogits(student.model).eval(), (), dict(rows[0]))
            if spec.precision == "int8":
                program = _quantized(program, rows)
                note = f"static int8 through XNNPACK, calibrated on {len(rows)} training rows"
            lowered = _lowered(program)
    except Exception as error:  # the exporter lets errors of every part of torch through
        raise ExportError(
            f"ExecuTorch {spec.precision}: {name} cannot be exported ({reason(error)}). Choose another student "
            "architecture, or `kind: onnx`."
        ) from error
    _require_kernels(lowered, name)
    (folder / MODEL).write_bytes(lowered.buffer)
    tokens = "" if shapes.length is None else f", texts padded to {shapes.length} tokens"
    return Made(MODEL, f"{note}{tokens}", card={KEY: shapes.card()})


def _lowered(program: Any) -> Any:
    exir = need("executorch.exir", "executorch", _PURPOSE)
    partitioner = need("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch", _PURPOSE)
    return exir.to_edge_transform_and_lower(program, partitioner=[partitioner.XnnpackPartitioner()]).to_executorch()


def _require_kernels(lowered: Any, name: str) -> None:
    """Raise ExportError where the program asks for operators that the runtime beside it has not."""
    (plan,) = lowered.executorch_program.execution_plan
    asked = {f"{one.name}.{one.overload}" if one.overload else one.name for one in plan.operators}
    here = need("executorch.runtime", "executorch", _PURPOSE).Runtime.get().operator_registry.operator_names
    absent = sorted(asked - set(here))
    if absent:
        raise ExportError(
            f"ExecuTorch: {name} cannot be run, its runtime has no {', '.join(absent)}. Choose another student "
            "architecture, or `kind: onnx`."
        )


def _quantized(program: Any, rows: Rows) -> Any:
    xnnpack = need("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", "executorch", _PURPOSE)
    pt2e = need("torchao.quantization.pt2e.quantize_pt2e", "executorch", _PURPOSE)
    quantizer = xnnpack.XNNPACKQuantizer()
    quantizer.set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True))
    prepared = pt2e.prepare_pt2e(program.module(), quantizer)
    for row in rows:
        prepared(**row)
    example: dict[str, Tensor] = dict(rows[0])
    return torch.export.export(pt2e.convert_pt2e(prepared), (), example)
