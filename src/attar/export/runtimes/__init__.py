"""Exported files at work, each through the runtime that its device has; no torch but for ExecuTorch's."""

from __future__ import annotations

from pathlib import Path

from attar.errors import ExportError
from attar.export.runtimes.base import Runner
from attar.export.runtimes.coreml import CoreMLRunner
from attar.export.runtimes.executorch import ExecuTorchRunner
from attar.export.runtimes.litert import LiteRTRunner
from attar.export.runtimes.onnx import OnnxRunner
from attar.export.runtimes.openvino import OpenVINORunner

_RUNNERS: dict[str, type[OnnxRunner | OpenVINORunner | LiteRTRunner | ExecuTorchRunner | CoreMLRunner]] = {
    "onnx": OnnxRunner,
    "web": OnnxRunner,
    "openvino": OpenVINORunner,
    "litert": LiteRTRunner,
    "executorch": ExecuTorchRunner,
    "coreml": CoreMLRunner,
}


def open_artifact(kind: str, folder: Path, threads: int = 1) -> Runner:
    """Open a classifier's export from its folder: `open_artifact(kind, folder)(inputs)` gives logits [N, C].

    Raises ExportError where the file cannot be run (ParityError where only another system runs such), MissingExtra.
    Files of language models are opened elsewhere.
    """
    if kind not in _RUNNERS:
        raise ExportError(f'{folder}: no runtime for "{kind}" here. Those of classifiers: {", ".join(_RUNNERS)}.')
    return _RUNNERS[kind](folder, threads)
