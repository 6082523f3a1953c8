"""int8 of all but language models: dynamic for transformers, embeddings too; static per channel for convolutional nets.

This file owns `onnxruntime.quantization`. Weights are uint8 in the dynamic kind: without VNNI, products of uint8
activations and int8 weights overflow 16 bits and lose accuracy without a word, while uint8 weights are exact on every
processor and as fast. Static convolutions take int8 weights, for which onnxruntime has its fast kernels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attar.errors import ExportError
from attar.export.graph import Graph, float_weights, load_graph, save_graph, weight_bytes
from attar.export.packages import need
from attar.export.quiet import quiet, reason

LEAST_SHARE = 0.5
"""Refused below this share of weight bytes in int8."""


def quantize(graph: Graph, calibration: Sequence[dict[str, np.ndarray]]) -> tuple[Graph, str]:
    """The graph with int8 weights, and how it was made. `calibration`: input batches, used by the static kind only.

    Raises ExportError where the quantizer fails or most weights stay as they are, MissingExtra.
    """
    module, weights = need("onnxruntime.quantization", "onnx", "int8 export"), float_weights(graph)
    static = 2 * weights.get("Conv", 0) > sum(weights.values())
    with tempfile.TemporaryDirectory(prefix="attar-int8-") as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        save_graph(graph, source, {})
        try:
            with quiet():
                if static:
                    _static(module, source, target, calibration)
                else:
                    _dynamic(module, source, target, _grouped(graph))
                small = load_graph(target)
        except Exception as error:  # the quantizer raises whatever its own parts raise
            raise ExportError(
                f"ONNX int8: the quantizer failed ({reason(error)}). Use `precision: fp32` for this student."
            ) from error
    check_share("int8", weight_bytes(graph, "FLOAT"), 4 * weight_bytes(small, "INT8", "UINT8"), weights)
    rows = sum(len(next(iter(batch.values()))) for batch in calibration)
    return small, f"static int8, calibrated on {rows} training rows" if static else "dynamic int8"


def _dynamic(module: Any, source: Path, target: Path, left_out: list[str]) -> None:
    module.quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul", "Gemm", "Gather", "Conv"],
        nodes_to_exclude=left_out,
        per_channel=True,
        weight_type=module.QuantType.QUInt8,
    )


def _static(module: Any, source: Path, target: Path, calibration: Sequence[dict[str, np.ndarray]]) -> None:
    rows: Iterator[dict[str, np.ndarray]] = iter(calibration)

    class Reader(module.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(rows, None)

    module.quantize_static(
        source,
        target,
        Reader(),
        per_channel=True,
        activation_type=module.QuantType.QUInt8,
        weight_type=module.QuantType.QInt8,
        # Logits in 256 steps would tie: what leaves the head stays float.
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    )


def _grouped(graph: Graph) -> list[str]:
    """Depthwise convolutions: few weights, and slow in the dynamic kind."""
    return [
        node.name
        for node in graph.graph.node
        if node.op_type == "Conv" and any(one.name == "group" and one.i > 1 for one in node.attribute)
    ]


def check_share(precision: str, before: int, reached: int, weights: dict[str, int]) -> None:
    """Raise ExportError where quantization left most weights as they are.

    `before`: bytes of float weights; `reached`: how many of them the quantized ones were; `weights`: by operator.
    """
    share = reached / before if before else 0.0
    if share < LEAST_SHARE:
        largest = ", ".join(sorted(weights, key=lambda kind: -weights[kind])[:3])
        raise ExportError(
            f"ONNX {precision}: only {share:.0%} of {before} bytes of weights can be quantized (they stand in "
            f"{largest}), so the file would hardly be smaller. Use `precision: fp32` for this student."
        )
