"""A decoder's weights in 8 or 4 bits, embeddings too; where they are the head's, they stand in the file once.

int8: one scale and zero point a column of each matrix, inputs quantized as they come (onnxruntime's dynamic quantizer).
int4: one scale and zero point for 32 numbers (onnxruntime's MatMulNBits quantizer). Shape letters: V tokens of the
vocabulary, D width of an embedding, B blocks of a column.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attar.errors import ExportError, MissingExtra
from attar.export.decoder import gather_columns
from attar.export.graph import Graph, clone, float_weights, onnx, weight_bytes
from attar.export.quantize import check_share, dynamic
from attar.export.quiet import quiet, reason

BLOCK = 32
"""Numbers that share a scale in int4."""
_ACCURACY = 4
"""onnxruntime's level: inputs are rounded to int8, block by block."""
_DOMAIN = "com.microsoft"
Array = NDArray[Any]


def shrink(graph: Graph, precision: Literal["int8", "int4"]) -> tuple[Graph, str]:
    """The quantized graph of `trace_decoder`, and how it was made. Raises ExportError, MissingExtra."""
    weights, before = float_weights(graph), weight_bytes(graph, "FLOAT")
    if precision == "int8":
        small = dynamic(graph, ["MatMul", "Gemm"])
        for node in _gathers(small):
            _gather_int8(small, node)
        _drop_unused(small)
        check_share(precision, before, 4 * weight_bytes(small, "INT8", "UINT8"), weights)
        return small, "dynamic int8, embeddings too"
    small = clone(graph)
    _split_gemms(small)
    quantizer = _block_quantizer(small)
    for node in _gathers(small):
        _gather_int4(small, node, quantizer)
    _drop_unused(small)
    check_share(precision, before, before - weight_bytes(small, "FLOAT"), weights)
    return small, f"int4 in blocks of {BLOCK}, embeddings too"


def _gathers(graph: Graph) -> list[Any]:
    """Nodes that take rows or columns out of a float matrix."""
    weights = {one.name for one in graph.graph.initializer if one.data_type == 1 and len(one.dims) == 2}
    return [node for node in graph.graph.node if node.op_type == "Gather" and node.input[0] in weights]


def _gather_int8(graph: Graph, node: Any) -> None:
    """Gather bytes of columns, then scale them: (q - zero point) * scale."""
    name = node.input[0]
    if _axis(node) == 0:  # embeddings of their own; else the head's columns are quantized already
        values = _values(graph, name).T
        least, most = np.minimum(values.min(0), 0.0), np.maximum(values.max(0), 0.0)
        scale = np.where(most > least, (most - least) / 255, 1.0).astype(np.float32)
        zero = np.round(-least / scale).clip(0, 255)
        whole = np.round(values / scale + zero).clip(0, 255).astype(np.uint8)
        _add(graph, f"{name}_quantized", whole)
        _add(graph, f"{name}_scale", scale)
        _add(graph, f"{name}_zero_point", zero.astype(np.uint8))
        gather_columns(graph, node, f"{name}_quantized")
    else:
        node.input[0] = f"{name}_quantized"
    helper, body = onnx().helper, graph.graph
    first = next(one for one in body.node if one.op_type == "Gather" and one.input[0] == f"{name}_quantized")
    ids, out, columns = first.input[1], first.output[0], f"{first.output[0]}_quantized"
    first.output[0] = columns
    made = [
        helper.make_node("Gather", [f"{name}_scale", ids], [f"{out}_scale"], axis=0),
        helper.make_node("Gather", [f"{name}_zero_point", ids], [f"{out}_zero"], axis=0),
        helper.make_node("Cast", [columns], [f"{out}_q"], to=1),
        helper.make_node("Cast", [f"{out}_zero"], [f"{out}_z"], to=1),
        helper.make_node("Sub", [f"{out}_q", f"{out}_z"], [f"{out}_whole"]),
        helper.make_node("Mul", [f"{out}_whole", f"{out}_scale"], [out]),
    ]
    at = list(body.node).index(first) + 1
    for offset, one in enumerate(made):
        body.node.insert(at + offset, one)


def _gather_int4(graph: Graph, node: Any, quantizer: Any) -> None:
    """Gather rows of blocks and scale them, by onnxruntime's own operator."""
    helper, body, name = onnx().helper, graph.graph, node.input[0]
    last, shared = node, _axis(node) == 1
    if shared:
        last = next(one for one in body.node if one.op_type == "Transpose" and one.input[0] == node.output[0])
        width = _dims(graph, name)[0]
    else:
        width = _dims(graph, name)[1]
        packed, scales, zeros = quantizer.qbits_block_quant(np.ascontiguousarray(_values(graph, name).T))
        for suffix, values in (("Q4", packed), ("scales", scales), ("zero_points", zeros)):
            _add(graph, f"{name}_{suffix}", values)
    count, blocks, half = _dims(graph, f"{name}_Q4")
    _add(graph, f"{name}_rows", np.array([count, blocks * half], np.int64))
    out, wide = last.output[0], blocks * BLOCK != width
    whole = f"{out}_blocks" if wide else out
    made = [
        helper.make_node("Reshape", [f"{name}_Q4", f"{name}_rows"], [f"{out}_packed"]),
        helper.make_node(
            "GatherBlockQuantized", [f"{out}_packed", node.input[1], f"{name}_scales", f"{name}_zero_points"], [whole],
            domain=_DOMAIN, bits=4, block_size=BLOCK, gather_axis=0, quantize_axis=1,
        ),
    ]  # fmt: skip
    if wide:
        for suffix, value in (("from", 0), ("to", width), ("axis", -1)):
            _add(graph, f"{name}_{suffix}", np.array([value], np.int64))
        cut = [whole, f"{name}_from", f"{name}_to", f"{name}_axis"]
        made.append(helper.make_node("Slice", cut, [out]))
    at = list(body.node).index(node)
    for old in {id(one): one for one in (node, last)}.values():
        body.node.remove(old)
    for offset, one in enumerate(made):
        body.node.insert(at + offset, one)


def _block_quantizer(graph: Graph) -> Any:
    """Quantize all matrices of the graph in place; returns what quantized them, for single tables."""
    module = _nbits()
    config = module.DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=False, accuracy_level=_ACCURACY, op_types_to_quantize=("MatMul",)
    )
    try:
        with quiet():
            module.MatMulNBitsQuantizer(graph, algo_config=config).process()
    except Exception as error:  # the quantizer raises whatever its own parts raise
        raise ExportError(
            f"ONNX int4: the quantizer failed ({reason(error)}). Use `precision: int8` for this student."
        ) from error
    return module.DefaultWeightOnlyQuantizer(config)


def _split_gemms(graph: Graph) -> None:
    """Make each Gemm a MatMul and an Add: the quantizer knows no other product."""
    helper, body = onnx().helper, graph.graph
    for node in [node for node in body.node if node.op_type == "Gemm"]:
        told = {one.name: one for one in node.attribute}
        plain = all(name not in told or told[name].i == 0 for name in ("transA", "transB"))
        if not plain or any(name in told and told[name].f != 1.0 for name in ("alpha", "beta")):
            continue
        product = f"{node.output[0]}_product"
        made = [
            helper.make_node("MatMul", list(node.input[:2]), [product], name=node.name),
            helper.make_node("Add", [product, node.input[2]], list(node.output)),
        ]
        at = list(body.node).index(node)
        body.node.remove(node)
        for offset, one in enumerate(made):
            body.node.insert(at + offset, one)


def _drop_unused(graph: Graph) -> None:
    used = {name for node in graph.graph.node for name in node.input}
    for one in [one for one in graph.graph.initializer if one.name not in used]:
        graph.graph.initializer.remove(one)


def _axis(node: Any) -> int:
    return next((int(one.i) for one in node.attribute if one.name == "axis"), 0)


def _values(graph: Graph, name: str) -> Array:
    return onnx().numpy_helper.to_array(next(one for one in graph.graph.initializer if one.name == name))


def _dims(graph: Graph, name: str) -> list[int]:
    return [int(size) for one in graph.graph.initializer if one.name == name for size in one.dims]


def _add(graph: Graph, name: str, values: Array) -> None:
    graph.graph.initializer.append(onnx().numpy_helper.from_array(np.ascontiguousarray(values), name))


def _nbits() -> Any:
    """The module, which sets up logging when it is imported: that is taken back."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        return importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx", "int4 export") from error
    finally:
        root.handlers[:] = before
        root.setLevel(level)
