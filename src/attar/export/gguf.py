"""A Llama and its tokenizer as one GGUF file, for llama.cpp and all that is built on it.

Weights go through the `gguf` library's own quantizers; sizes, positions and names as llama.cpp's converter writes them
(conversion/llama.py and conversion/base.py, read as llama-cpp-python brings them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from attar.errors import ExportError, StorageError
from attar.export.gguf_tokenizer import write_tokenizer
from attar.gguf_header import package
from attar.storage import atomic_file
from attar.teachers.gguf_llama import EMBEDDING, HEAD, LAYER, NORM, ROPE, layer_name, together

Precision = Literal["f32", "f16", "q8_0", "q4_0"]
"""Of matrices; vectors are always float32. q8_0 and q4_0: one scale for 32 numbers. In q4_0 embeddings and head keep
q8_0: they are what tells words apart (llama.cpp's own files keep six bits there)."""
_BLOCK = 32
_LARGEST = 65504.0
"""Of a half, which scales are as well."""
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}


@dataclass(frozen=True)
class _Tensor:
    """One tensor to be written."""

    name: str
    weight: Tensor
    kind: str
    """F32, F16, Q8_0 or Q4_0."""
    heads: int | None = None
    """Heads that its rows are reordered in."""


def write_gguf(model: PreTrainedModel, tokenizer: Any, file: Path, *, precision: Precision, name: str) -> None:
    """Write `file`, whole or not at all; the same model gives the same bytes.

    `model`: a LlamaForCausalLM on any device, in any dtype; its head may be its embeddings. `tokenizer`: its byte-level
    BPE tokenizer, a reduced one included. `name`: what the file calls the model. Matrices whose rows are not a multiple
    of 32 stay in F16 where blocks are asked for: `left_in_f16` says which, and so does the file (`attar.left_in_f16`).

    Raises ExportError where llama.cpp would answer otherwise than the model, MissingExtra and StorageError.
    """
    library = package("GGUF export")
    config = _checked(model)
    tensors = _tensors(model, precision)
    with atomic_file(file) as partial:
        writer = library.GGUFWriter(partial, "llama")
        try:
            _describe(writer, library, config, name=name, precision=precision)
            kept = left_in_f16(model, precision)
            if kept:
                writer.add_array("attar.left_in_f16", list(kept))
            vocabulary = len(tensors[0].weight)
            write_tokenizer(writer, tokenizer, vocabulary=vocabulary, ends=_ends(model, vocabulary))
            _write(writer, library, tensors)
        except OSError as error:
            if error.errno is None:  # numpy's own, where not all of a tensor went to the disk
                raise StorageError(
                    f"{file}: cannot write all of it ({error}). Free some space, then run again."
                ) from None
            raise
        finally:
            writer.close()


def left_in_f16(model: PreTrainedModel, precision: Precision) -> tuple[str, ...]:
    """The file's names of matrices that blocks of 32 numbers do not fit; empty for f32 and f16."""
    if precision in ("f32", "f16"):
        return ()
    return tuple(one.name for one in _tensors(model, precision) if one.kind == "F16")


def _checked(model: PreTrainedModel) -> Any:
    """The model's configuration, if it is one that llama.cpp's `llama` computes."""
    config = cast("Any", model.config)
    if not isinstance(model, LlamaForCausalLM) or config.model_type != "llama":
        raise ExportError(
            f'GGUF: a {type(model).__name__} of model_type "{config.model_type}" cannot be written, only a '
            'LlamaForCausalLM of model_type "llama". Choose such a student, or another export.'
        )
    wanted = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}
    for key, value in wanted.items():
        if getattr(config, key) != value:
            raise _beyond(f"{key}: {getattr(config, key)!r} instead of {value!r}")
    rope = config.rope_parameters
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _beyond(f"partial_rotary_factor: {rope['partial_rotary_factor']}")
    if rope["rope_type"] not in ("default", "linear", "llama3", "longrope"):
        raise _beyond(f"rope_type: {rope['rope_type']!r}; default, linear, llama3 and one set of longrope's are known")
    if rope["rope_type"] == "longrope" and rope["short_factor"] != rope["long_factor"]:
        raise _beyond("longrope with a second set of factors for long texts")
    return config


def _tensors(model: PreTrainedModel, precision: Precision) -> list[_Tensor]:
    """What the file is to hold, embeddings first."""
    state, config = cast("dict[str, Tensor]", model.state_dict()), cast("Any", model.config)
    targets = {EMBEDDING: "model.embed_tokens.weight", NORM: "model.norm.weight"}
    heads: dict[str, int] = {}
    for index in range(config.num_hidden_layers):
        for part, target in LAYER.items():
            targets[layer_name(index, part)] = f"model.layers.{index}.{target}.weight"
        heads[layer_name(index, "attn_q")] = config.num_attention_heads
        heads[layer_name(index, "attn_k")] = config.num_key_value_heads
    if state["lm_head.weight"].data_ptr() != state[targets[EMBEDDING]].data_ptr():
        targets[HEAD] = "lm_head.weight"
    if extra := sorted(state.keys() - {*targets.values(), "lm_head.weight"}):
        raise _beyond(f"weights besides a Llama's own, such as {extra[0]} (merge adapters before the export)")
    found = [
        _Tensor(name, state[target], _kind(name, state[target], precision), heads.get(name))
        for name, target in targets.items()
    ]
    factors = _rope_factors(config)
    return found if factors is None else [*found, _Tensor(ROPE, factors, "F32")]


def _kind(name: str, weight: Tensor, precision: Precision) -> str:
    if weight.dim() < 2:
        return "F32"
    if precision.startswith("q") and weight.shape[-1] % _BLOCK:
        return "F16"
    return "Q8_0" if precision == "q4_0" and name in (EMBEDDING, HEAD) else precision.upper()


def _rope_factors(config: Any) -> Tensor | None:
    """What each frequency of a head is divided by, where that is not one number for all: float32 [head_dim / 2]."""
    rope = config.rope_parameters
    if rope["rope_type"] not in ("llama3", "longrope"):
        return None
    scaled, attention = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"))
    if attention != 1.0:
        raise _beyond(f"attention scaled by {attention} with its positions")
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    return (float(rope["rope_theta"]) ** -steps / scaled.double()).float()


def _describe(writer: Any, library: Any, config: Any, *, name: str, precision: Precision) -> None:
    """Everything but the tokenizer."""
    rope = config.rope_parameters
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(int(library.LlamaFileType[_FILE_TYPES[precision]]))
    writer.add_quantization_version(library.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(library.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    writer.add_vocab_size(config.vocab_size)


def _ends(model: PreTrainedModel, vocabulary: int) -> list[int]:
    """Tokens at which the model stops, by its generation configuration."""
    told = cast("Any", model).generation_config.eos_token_id
    listed = cast("list[Any]", told if isinstance(told, list) else [told])
    return [index for index in listed if isinstance(index, int) and 0 <= index < vocabulary]


def _write(writer: Any, library: Any, tensors: list[_Tensor]) -> None:
    """Header, then one tensor after another: no more than one is in memory twice."""
    for one in tensors:
        kind = library.GGMLQuantizationType[one.kind]
        block, width = library.GGML_QUANT_SIZES[kind]
        size = math.prod(one.weight.shape) // block * width
        writer.add_tensor_info(one.name, tuple(one.weight.shape), np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for one in tensors:
        values = one.weight.detach().to("cpu", torch.float32)
        largest = float(values.abs().max())
        if not largest <= (_LARGEST if one.kind != "F32" else torch.finfo(torch.float32).max):
            raise ExportError(
                f"GGUF: {one.name} holds {largest}, which {one.kind} cannot hold. Use precision f32 if the number is "
                "finite; else train anew with a lower learning rate."
            )
        values = values if one.heads is None else together(values, one.heads)
        writer.write_tensor_data(
            library.quants.quantize(values.contiguous().numpy(), library.GGMLQuantizationType[one.kind])
        )


def _beyond(what: str) -> ExportError:
    return ExportError(
        f"GGUF: the model has {what}, which llama.cpp's Llama does not compute; its answers would be wrong. Use "
        "another export."
    )
