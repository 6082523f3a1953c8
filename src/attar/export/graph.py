"""From a torch module to a lean ONNX graph: dynamic batch and sequence, one output `logits`, nothing but what runs.

The exporter leaves stack traces with this machine's paths in every node (a tenth of a small model's bytes); they go, so
that the same weights give the same bytes on any machine. This file owns the package `onnx`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attar.errors import ExportError
from attar.export.packages import need
from attar.export.quiet import quiet, reason
from attar.export.runtimes.base import OUTPUT
from attar.signals import Wanted, ask

Graph = Any
"""An `onnx.ModelProto`."""

LARGEST = 2_000_000_000
"""Bytes of a protobuf file."""


class _Logits(nn.Module):
    """A model whose inputs are positional and whose output is one tensor, as the exporter wants it."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits = ask(self.model, dict(zip(self.names, inputs, strict=True)), Wanted()).dense_logits
        assert logits is not None
        return logits


class NamedLogits(nn.Module):
    """A model whose inputs are keywords and whose output is one tensor, as the exporters of devices want it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logits [N, C]."""
        logits = ask(self.model, inputs, Wanted()).dense_logits
        assert logits is not None
        return logits


def trace_graph(model: nn.Module, example: Mapping[str, Tensor], opset: int) -> Graph:
    """The graph of `model` in eval mode, fp32. `example`: a batch of at least two rows, named as the model's inputs.

    Integer inputs [N, T] get the axes `batch` and `sequence`, all others `batch`. Raises ExportError with the
    exporter's reason, MissingExtra.
    """
    names = list(example)
    axes = tuple(_axes(value) for value in example.values())
    return export_module(
        _Logits(model, names), tuple(example.values()), (axes,), names, [OUTPUT], opset=opset, name=type(model).__name__
    )


def export_module(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    axes: Any,
    input_names: list[str],
    output_names: list[str],
    *,
    opset: int,
    name: str,
) -> Graph:
    """The graph of `module` in eval mode; its own mode is left.

    `axes`: names of the dynamic axes, in the shape of the inputs. `name`: what the model is called in errors. Raises
    ExportError with the exporter's reason, MissingExtra.
    """
    onnx()
    need("onnxscript", "onnx", "ONNX export")
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with quiet(), torch.no_grad():
            # Names stand for torch.export's DYNAMIC: an axis that the model's code fixes is an error, not a constant.
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                dynamic_shapes=axes,
                input_names=input_names,
                output_names=output_names,
                opset_version=opset,
                verbose=False,
            )
            assert program is not None
            graph = program.model_proto
    except Exception as error:  # the exporter lets errors of every part of torch and onnxscript through
        raise ExportError(
            f"ONNX: {name} cannot be exported ({reason(error)}). Choose another student architecture, or remove this "
            "export from the recipe."
        ) from error
    finally:
        for part, training in modes.items():
            part.training = training
    _fold(graph)
    _strip(graph)
    return graph


def clone(graph: Graph) -> Graph:
    """A copy."""
    return copy.deepcopy(graph)


def save_graph(graph: Graph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a stripped graph with its weights inside, and `metadata` as the model's properties. Raises ExportError."""
    size = weight_bytes(graph)
    if size > LARGEST:
        raise ExportError(
            f"ONNX: {size} bytes of weights do not fit one file (at most {LARGEST}). Use a smaller student."
        )
    graph = copy.deepcopy(graph)
    _strip(graph)
    onnx().helper.set_model_props(graph, dict(metadata))
    path.write_bytes(graph.SerializeToString(deterministic=True))


def load_graph(path: Path) -> Graph:
    """Read a graph that was written by `save_graph` or a quantizer."""
    return onnx().load(str(path))


def weight_bytes(graph: Graph, *types: str) -> int:
    """Bytes of the graph's weights, all or only those of some element types (FLOAT, INT8, UINT8)."""
    wanted = [onnx().TensorProto.DataType.Value(name) for name in types]
    helper = onnx().helper
    return sum(
        _count(one.dims) * helper.tensor_dtype_to_np_dtype(one.data_type).itemsize
        for one in graph.graph.initializer
        if not wanted or one.data_type in wanted
    )


def float_weights(graph: Graph) -> dict[str, int]:
    """Bytes of fp32 weights by the type of operator that reads them."""
    tensor = onnx().TensorProto
    sizes = {one.name: 4 * _count(one.dims) for one in graph.graph.initializer if one.data_type == tensor.FLOAT}
    found: dict[str, int] = {}
    for node in graph.graph.node:
        for name in node.input:
            if name in sizes:
                found[node.op_type] = found.get(node.op_type, 0) + sizes.pop(name)
    return found


def onnx() -> Any:
    """The package `onnx`. Raises MissingExtra."""
    return need("onnx", "onnx", "ONNX export")


def _axes(value: Tensor) -> dict[int, str]:
    return {0: "batch", 1: "sequence"} if value.dim() == 2 and not value.is_floating_point() else {0: "batch"}


def _count(dims: Any) -> int:
    total = 1
    for size in dims:
        total *= int(size)
    return total


def _fold(graph: Graph) -> None:
    """Turn round the matrices that the graph would turn round at each call: the exporter folds small ones only, and a
    quantizer passes over the others.
    """
    helper, body = onnx().numpy_helper, graph.graph
    weights = {one.name: one for one in body.initializer if len(one.dims) == 2}
    for node in [node for node in body.node if node.op_type == "Transpose" and node.input[0] in weights]:
        values = helper.to_array(weights[node.input[0]])
        body.initializer.append(helper.from_array(values.T.copy(), node.output[0]))
        body.node.remove(node)
        if not any(node.input[0] in other.input for other in body.node):
            body.initializer.remove(weights.pop(node.input[0]))


def _strip(graph: Graph) -> None:
    """Remove doc strings, properties and intermediate shapes, which no runtime needs."""
    body = graph.graph
    graph.doc_string = body.doc_string = ""
    for part in (graph, body, *body.node, *body.input, *body.output, *body.initializer, *graph.functions):
        part.doc_string = ""
        del part.metadata_props[:]
    del body.value_info[:]
