"""From a causal language model to one graph with a cache: the prompt at once, then token by token.

Inputs are `input_ids` [N, T], `attention_mask` [N, P + T], `position_ids` [N, T] (where the model places tokens by
them) and for each layer `past_key_values.L.key` and `.value` [N, heads, P, width], with P = 0 for the prompt; outputs
are `logits` [N, T, V] and `present.L.key` and `.value` [N, heads, P + T, width]. So transformers.js and Optimum name
them. Shape letters: N texts, T new tokens, P tokens of the past, V tokens of the vocabulary, D width of an embedding.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from attar.errors import ExportError
from attar.export.graph import Graph, export_module, onnx
from attar.export.runtimes.base import OUTPUT

PAST, PRESENT = "past_key_values", "present"
PARTS = ("key", "value")
POSITIONS = "position_ids"
_OWN = ["input_ids", "attention_mask"]


class _Cached(nn.Module):
    """A language model whose cache is plain tensors, in and out."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.stored = _cache_name(model)

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        """`inputs`: those of `names`, then a tuple of keys and values, layer by layer."""
        past = cast("tuple[Tensor, ...]", inputs[-1])
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        given = dict(zip(self.names, inputs[:-1], strict=True))
        answer = self.model(**given, **{self.stored: cache}, use_cache=True, return_dict=True)
        return answer.logits.float(), *_flat(cache)


def trace_decoder(model: nn.Module, opset: int, *, half: bool = False) -> Graph:
    """The graph of a causal language model on the CPU. `half`: weights and cache in float16, logits in float32.

    Embeddings that are the head's weights stand in the graph once. Raises ExportError where the model keeps anything
    but keys and values of all tokens, or the exporter cannot follow it; MissingExtra.
    """
    if not isinstance(model, PreTrainedModel):
        raise ExportError(f"ONNX: {type(model).__name__} is no model of Transformers, so its cache is not known.")
    if half:
        model = copy.deepcopy(model)
        for parameter in model.parameters():  # buffers stay: positions need float32
            parameter.data = parameter.data.half()
    names = [*_OWN, POSITIONS] if POSITIONS in inspect.signature(model.forward).parameters else _OWN
    past = _past(model)
    tokens, old = 3, past[0].shape[2]
    ids = torch.arange(2 * tokens).view(2, tokens) % 7
    mask = torch.ones(2, old + tokens, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": mask, POSITIONS: torch.arange(old, old + tokens).expand(2, -1)}
    widths = {"input_ids": "sequence_length", "attention_mask": "total_sequence_length", POSITIONS: "sequence_length"}
    axes = [{0: "batch_size", 1: widths[name]} for name in names]
    stored = [{0: "batch_size", 2: "past_sequence_length"} for _ in past]
    layers = [f"{layer}.{part}" for layer in range(len(past) // 2) for part in PARTS]
    graph = export_module(
        _Cached(model, names),
        (*(inputs[name].contiguous() for name in names), past),  # pyright: ignore[reportArgumentType]
        ((*axes, tuple(stored)),),
        [*names, *(f"{PAST}.{layer}" for layer in layers)],
        [OUTPUT, *(f"{PRESENT}.{layer}" for layer in layers)],
        opset=opset,
        name=type(model).__name__,
    )
    _share(graph)
    return graph


def _cache_name(model: PreTrainedModel) -> str:
    """What the model calls its cache: Transformers 5.24 renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else PAST


def _flat(cache: Any) -> list[Tensor]:
    """Keys and values [N, heads, P, width], layer by layer."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def _past(model: PreTrainedModel) -> tuple[Tensor, ...]:
    """What the model keeps of two texts of four tokens, found by asking it. Raises ExportError."""
    name, cache = type(model).__name__, DynamicCache()
    ids, was_training = torch.ones(2, 4, dtype=torch.long), model.training
    model.eval()
    try:
        with torch.no_grad():
            model(input_ids=ids, **{_cache_name(model): cache}, use_cache=True)
        past = tuple(_flat(cache))
        fits = bool(past) and all(one.dim() == 4 and one.shape[::2] == ids.shape for one in past)
    except Exception as error:  # a family with a state of another kind fails in its own way
        raise ExportError(f"ONNX: {name} does not run with a cache of keys and values ({error}). {_INSTEAD}") from error
    finally:
        model.train(was_training)
    if not fits:
        shapes = sorted({str(list(one.shape)) for one in past})
        raise ExportError(
            f"ONNX: {name} keeps {', '.join(shapes) or 'nothing'} of 2 texts of 4 tokens, but [2, heads, 4, width] of "
            f"each layer is needed. {_INSTEAD}"
        )
    return past


_INSTEAD = "Choose a student of another family (llama, qwen2, gemma, gpt2 …), or another export."


def _share(graph: Graph) -> None:
    """Let embeddings [V, D] that are a matrix [D, V] of the graph be gathered from its columns."""
    body, package = graph.graph, onnx()
    weights = {one.name: one for one in body.initializer}
    heads = [weights[node.input[1]] for node in body.node if node.op_type == "MatMul" and node.input[1] in weights]
    for node in [node for node in body.node if node.op_type == "Gather" and node.input[0] in weights]:
        table = weights[node.input[0]]
        wanted = list(reversed(table.dims))
        values = package.numpy_helper.to_array(table)
        for head in (one for one in heads if list(one.dims) == wanted and len(wanted) == 2):
            if np.array_equal(package.numpy_helper.to_array(head), values.T):
                _gather_columns(graph, node, head.name)
                body.initializer.remove(table)
                break


def _gather_columns(graph: Graph, node: Any, weight: str) -> None:
    """Make a Gather of rows one of the columns of `weight` [D, V], put back into rows."""
    helper, at = onnx().helper, list(graph.graph.node).index(node)
    columns = f"{node.output[0]}_columns"
    made = [
        helper.make_node("Gather", [weight, node.input[1]], [columns], axis=1, name=node.name),
        helper.make_node("Transpose", [columns], [node.output[0]], perm=[1, 2, 0], name=f"{node.name}_rows"),
    ]
    graph.graph.node.remove(node)
    for offset, one in enumerate(made):
        graph.graph.node.insert(at + offset, one)
