"""A Llama's weights and sizes from a GGUF file.

Transformers (5.24) reads such files too, but leaves out how positions are scaled (rope_freqs, rope.scaling), marks the
model as quantized, and parses the header several times, which takes longer than all the rest.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from attar.errors import TeacherError
from attar.gguf_header import Entry, Header, damaged, package

EMBEDDING, HEAD, NORM = "token_embd.weight", "output.weight", "output_norm.weight"
ROPE = "rope_freqs.weight"
"""What each of the head's frequencies is divided by, float32 [head_dim / 2]; absent: nothing."""
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""The parts of a Llama layer: the file's name (blk.N.NAME.weight) and Transformers' (model.layers.N.NAME.weight)."""
_SKIPPED = ("attn_rot_embd",)
_SCALES = ("attention.scale", "logit_scale", "residual_scale", "embedding_scale", "expert_count")
"""Keys that change a Llama's answers and that LlamaForCausalLM has no place for, where they are not 0."""


def layer_name(index: int, part: str) -> str:
    """The file's name of a layer's weight."""
    return f"blk.{index}.{part}.weight"


def read_llama(header: Header) -> PreTrainedModel:
    """A `LlamaForCausalLM` in float32. Raises TeacherError where the file contradicts itself or holds another model."""
    config = _config(header)
    names = _names(header, config)
    kinds, dequantize = (
        getattr(package("Reading a GGUF file"), name) for name in ("GGMLQuantizationType", "dequantize")
    )
    data = np.memmap(header.file, mode="r")
    state: dict[str, Tensor] = {}
    for name, (target, heads) in names.items():
        entry = header.tensors[name]
        raw = data[entry.start : entry.start + entry.size]
        values = np.array(dequantize(raw.reshape(_stored(entry)), kinds(entry.kind)), dtype=np.float32)
        weight = torch.from_numpy(values).reshape(entry.shape)
        if not weight.isfinite().all():
            raise damaged(header.file, f'"{name}" holds numbers that are not finite')
        state[target] = weight if heads is None else apart(weight, heads)
    model, report = cast(
        "tuple[PreTrainedModel, dict[str, Any]]",
        LlamaForCausalLM.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
        ),
    )
    check_complete(header, report)
    return model


def apart(weight: Tensor, heads: int) -> Tensor:
    """Rows [heads * d, D] of queries or keys from llama.cpp's order to Transformers'.

    llama.cpp turns neighbouring rows of a head by one angle, Transformers row i and row i + d / 2.
    """
    return weight.view(heads, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def together(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `apart`."""
    return weight.view(heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def _stored(entry: Entry) -> tuple[int, ...]:
    """The shape of the bytes of a tensor: those of a row last."""
    rows = math.prod(entry.shape[:-1])
    return (rows, entry.size // rows)


def _config(header: Header) -> LlamaConfig:
    """Raises TeacherError where a size is absent or absurd, or the model is not what LlamaForCausalLM can be."""

    def number(key: str, default: Any = None, kind: type = int) -> Any:
        value = header.own(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, kind)) or not 0 < value < math.inf:
            raise damaged(header.file, f"its llama.{key} is {value!r}")
        return value

    for key in _SCALES:
        if header.own(key):
            raise _beyond(header, f"llama.{key} = {header.own(key)}")
    width, heads, embedding = number("embedding_length"), number("attention.head_count"), header.tensors.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise damaged(header.file, f'it has no matrix "{EMBEDDING}"')
    head = number("attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if number(key, head) != head:
            raise _beyond(header, f"llama.{key} = {header.own(key)} with heads of {head}")
    context = number("context_length")
    config = LlamaConfig(
        vocab_size=embedding.shape[0],
        hidden_size=width,
        intermediate_size=number("feed_forward_length"),
        num_hidden_layers=number("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=number("attention.head_count_kv", heads),
        head_dim=head,
        max_position_embeddings=context,
        rms_norm_eps=number("attention.layer_norm_rms_epsilon", kind=float),
        rope_parameters=_rope(header, number("rope.freq_base", 10_000.0, float), head, context),
        tie_word_embeddings=HEAD not in header.tensors,
    )
    config.architectures = ["LlamaForCausalLM"]
    return config


def _rope(header: Header, theta: float, head: int, context: int) -> dict[str, Any]:
    """How positions turn. Factors by frequency (Llama 3.1) become Transformers' longrope with one set of them."""
    kind = header.own("rope.scaling.type", "linear")
    factor = header.own("rope.scaling.factor", header.own("rope.scale_linear")) or 1.0
    if kind not in ("none", "linear"):
        raise _beyond(header, f"llama.rope.scaling.type = {kind!r}")
    factor = 1.0 if kind == "none" else float(factor)
    if not 0 < factor < math.inf:
        raise damaged(header.file, f"its llama.rope.scaling.factor is {factor}")
    entry = header.tensors.get(ROPE)
    if entry is None:
        scaled = {"rope_type": "default"} if factor == 1 else {"rope_type": "linear", "factor": factor}
        return {"rope_theta": theta, **scaled}
    if entry.kind != 0 or entry.shape != (head // 2,):
        raise damaged(header.file, f'"{ROPE}" has type {entry.kind} and shape {entry.shape}, not 0 and ({head // 2},)')
    factors = np.fromfile(header.file, "<f4", head // 2, offset=entry.start)
    if not ((factors > 0) & np.isfinite(factors)).all():
        raise damaged(header.file, f'"{ROPE}" holds numbers that are no factors')
    each = [float(one) * factor for one in factors]
    return {
        "rope_theta": theta,
        "rope_type": "longrope",
        "short_factor": each,
        "long_factor": each,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }


def _names(header: Header, config: LlamaConfig) -> dict[str, tuple[str, int | None]]:
    """Where each weight of the file goes, and how many heads its rows are to be reordered in.

    Raises TeacherError where weights are missing, unknown or of another shape than the sizes that the file states.
    """
    found = {
        name: entry
        for name, entry in header.tensors.items()
        if name != ROPE and not any(part in name for part in _SKIPPED)
    }
    layers, width, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    if layers * len(LAYER) > len(found):
        raise damaged(header.file, f"it states {layers} layers, but has only {len(found)} tensors")
    heads, groups = config.num_attention_heads, cast("int", config.num_key_value_heads)
    queries, keys = heads * cast("int", config.head_dim), groups * cast("int", config.head_dim)
    if heads % groups or cast("int", config.head_dim) % 2:
        raise damaged(header.file, f"it states {heads} heads of {config.head_dim}, and {groups} of keys")
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,),
        "attn_q": (queries, width),
        "attn_k": (keys, width),
        "attn_v": (keys, width),
        "attn_output": (width, queries),
        "ffn_norm": (width,),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }
    wanted: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, width), NORM: (width,)}
    names: dict[str, tuple[str, int | None]] = {
        EMBEDDING: ("model.embed_tokens.weight", None),
        NORM: ("model.norm.weight", None),
    }
    if HEAD in found:
        wanted[HEAD], names[HEAD] = (config.vocab_size, width), ("lm_head.weight", None)
    for index in range(layers):
        for part, target in LAYER.items():
            name = layer_name(index, part)
            wanted[name] = shapes[part]
            names[name] = f"model.layers.{index}.{target}.weight", {"attn_q": heads, "attn_k": groups}.get(part)
    for name, shape in wanted.items():
        if name not in found or found[name].shape != shape:
            has = found[name].shape if name in found else "nothing"
            raise damaged(header.file, f'it must have "{name}" of shape {shape} by its own sizes, but has {has}')
    if extra := sorted(found.keys() - wanted.keys()):
        raise _beyond(header, f"tensors that it does not know ({', '.join(extra[:3])}{', …' if extra[3:] else ''})")
    tokens = header.values.get("tokenizer.ggml.tokens", ())
    if len(tokens) > config.vocab_size:
        raise damaged(header.file, f"it has {len(tokens)} tokens, but embeddings of {config.vocab_size}")
    return names


def check_complete(header: Header, report: dict[str, Any]) -> None:
    """Raise TeacherError where Transformers lacked weights: it draws them at random."""
    lacking = sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])])
    if lacking:
        raise damaged(header.file, f"{len(lacking)} weights are absent or of another shape, such as {lacking[0]}")


def _beyond(header: Header, what: str) -> TeacherError:
    return TeacherError(
        f"{header.file}: has {what}, which Transformers' LlamaForCausalLM cannot follow; its answers would be wrong. "
        "Use the model's Transformers folder."
    )
