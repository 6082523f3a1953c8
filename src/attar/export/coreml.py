"""The Core ML exporter, experimental: from torch.export through coremltools to model.mlpackage, for students of images.

It can be written anywhere, and asked on a Mac alone: elsewhere the file is refused, as nothing compared it.
"""

from __future__ import annotations

from pathlib import Path

import torch

from attar.errors import ExportError
from attar.export.exporter import Made, Trained, batches
from attar.export.graph import NamedLogits
from attar.export.packages import need
from attar.export.quiet import reason, silent
from attar.export.runtimes.base import OUTPUT
from attar.export.runtimes.coreml import MODEL, PROGRAM
from attar.export.runtimes.static import KEY, Shapes
from attar.hashing import files_below
from attar.recipe.outcome import CoreMLSpec


def export_coreml(student: Trained, spec: CoreMLSpec, folder: Path) -> Made:
    """An `Exporter`."""
    tools = need("coremltools", "coreml", "Core ML export")
    name = type(student.model).__name__
    row = next(batches(student.task, student.rows, [[0]], student.processor))
    if "input_ids" in row:
        raise ExportError(
            f"Core ML: coremltools cannot convert students of texts such as {name}. Use `kind: executorch` or "
            "`kind: onnx`, which run on iOS, too."
        )
    failed: str | None = None
    with silent(), torch.no_grad():
        try:
            program = torch.export.export(NamedLogits(student.model).eval(), (), dict(row)).run_decompositions({})
            tools.convert(
                program,
                convert_to="mlprogram",
                compute_precision=tools.precision.FLOAT32,
                minimum_deployment_target=tools.target.iOS16,
                outputs=[tools.TensorType(name=OUTPUT)],
                package_dir=str(folder / MODEL),
                skip_model_load=True,
            )
        except Exception as error:  # coremltools lets errors of all its passes through
            failed = reason(error)  # and the error ends in here: it holds a temporary folder, which warns as it goes
    if failed is not None:
        raise ExportError(
            f"Core ML {spec.precision}: {name} cannot be converted ({failed}). Choose another student architecture, or "
            "`kind: executorch`, which runs on iOS, too."
        )
    written = [file for file in files_below(folder) if file.startswith(f"{MODEL}/") and file != PROGRAM]
    note = "experimental: fp32 by coremltools, for iOS 16 and macOS 13 or newer"
    return Made(PROGRAM, note, besides=tuple(written), card={KEY: Shapes(tuple(row)).card()})
