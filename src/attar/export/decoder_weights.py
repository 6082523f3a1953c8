"""A decoder's weights in blocks of 32 numbers of 8 or 4 bits, embeddings too; those of the head stand there once.

This file owns onnxruntime's MatMulNBits quantizer: one scale for 32 numbers of a column, rounded to the nearest. In
int4 embeddings and head keep 8 bits. Dynamic int8, one scale a column and one for all inputs of a product, does not do
for language models: docs/onnx.md has the figures. Shape letters: V tokens of the vocabulary, D width of an embedding.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attar.errors import ExportError
from attar.export.graph import Graph, clone, float_weights, onnx, weight_bytes
from attar.export.packages import need
from attar.export.quantize import check_share
from attar.export.quiet import quiet, reason

BLOCK = 32
"""Numbers that share a scale."""
_ACCURACY = 4
"""onnxruntime's level: inputs are rounded to int8, block by block."""
_DOMAIN = "com.microsoft"
Array = NDArray[Any]


def shrink(graph: Graph, precision: Literal["int8", "int4"]) -> tuple[Graph, str]:
    """The quantized graph of `trace_decoder`, and how it was made. Raises ExportError, MissingExtra."""
    weights, before = float_weights(graph), weight_bytes(graph, "FLOAT")
    small = clone(graph)
    _split_gemms(small)
    if precision == "int4":
        weighty = {one.name for one in small.graph.initializer if len(one.dims) == 2}
        products = [one for one in small.graph.node if one.op_type == "MatMul" and one.input[1] in weighty]
        _quantize(small, 4, besides=[one.name for one in products[-1:]])  # the last one is the head
    quantizer = _quantize(small, 8)
    for node in _gathers(small):
        _gather_blocks(small, node, quantizer)
    _drop_unused(small)
    check_share(precision, before, before - weight_bytes(small, "FLOAT"), weights)
    how = f"{precision} in blocks of {BLOCK}"
    return small, f"{how}, embeddings and head in int8" if precision == "int4" else f"{how}, embeddings too"


def _gathers(graph: Graph) -> list[Any]:
    """Nodes that take rows or columns out of a float matrix."""
    weights = {one.name for one in graph.graph.initializer if one.data_type == 1 and len(one.dims) == 2}
    return [node for node in graph.graph.node if node.op_type == "Gather" and node.input[0] in weights]


def _gather_blocks(graph: Graph, node: Any, quantizer: Any) -> None:
    """Gather rows of blocks of 8 bits and scale them, by onnxruntime's own operator."""
    helper, body, name = onnx().helper, graph.graph, node.input[0]
    last, shared = node, _axis(node) == 1  # columns of the head, which is quantized already
    if shared:
        last = next(one for one in body.node if one.op_type == "Transpose" and one.input[0] == node.output[0])
        width = _dims(graph, name)[0]
    else:
        width = _dims(graph, name)[1]
        packed, scales, _ = quantizer.qbits_block_quant(np.ascontiguousarray(_values(graph, name).T))
        _add(graph, f"{name}_Q8", packed)
        _add(graph, f"{name}_scales", scales)
    count, blocks, _ = _dims(graph, f"{name}_Q8")
    _add(graph, f"{name}_rows", np.array([count, blocks * BLOCK], np.int64))
    out, wide = last.output[0], blocks * BLOCK != width
    whole = f"{out}_blocks" if wide else out
    made = [
        helper.make_node("Reshape", [f"{name}_Q8", f"{name}_rows"], [f"{out}_packed"]),
        helper.make_node(
            "GatherBlockQuantized", [f"{out}_packed", node.input[1], f"{name}_scales"], [whole],
            domain=_DOMAIN, bits=8, block_size=BLOCK, gather_axis=0, quantize_axis=1,
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


def _quantize(graph: Graph, bits: int, besides: list[str] | None = None) -> Any:
    """Quantize matrices of the graph in place; returns what quantized them, for single tables.

    `besides`: names of products that are left as they are.
    """
    module = _nbits()
    config = module.DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, bits=bits, accuracy_level=_ACCURACY, op_types_to_quantize=("MatMul",)
    )
    try:
        with quiet():
            module.MatMulNBitsQuantizer(graph, algo_config=config, nodes_to_exclude=besides).process()
    except Exception as error:  # the quantizer raises whatever its own parts raise
        raise ExportError(
            f"ONNX int{bits}: the quantizer failed ({reason(error)}). Use `precision: fp16` for this student."
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
        return need("onnxruntime.quantization.matmul_nbits_quantizer", "onnx", "int4 export")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
