"""GGUF files for tests, made by the library's own writer from a tiny Llama, without any code of attar.

Rows of queries and keys are reordered by an index that is computed head by head, where attar reshapes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = [
    "Janet pays $12 for 3 ducks, and 40% of 2024 is 809.6.",
    "def f(x):\n\tif x  > 17:\n        return x ** 2  # it's a square\n\n\n",
    "naïve café, 漢字 and Привет; ½ of ٣٤ and 🙂👩‍👩‍👧 too",
    "  leading,  twofold   and trailing spaces  9  ",
    "<|im_start|>user\nhow many?<|im_end|>\n<|im_start|>assistant\n",
    "we'll see; I'd've said they're there, WE'LL SEE",
]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
PARTS = {
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


def smollm_splitter() -> pre_tokenizers.PreTokenizer:
    """How SmolLM's own tokenizer.json splits: digits one by one, then GPT-2's way."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def byte_tokenizer(
    splitter: pre_tokenizers.PreTokenizer | None = None,
    *,
    size: int = 400,
    plain: tuple[str, ...] = (),
    special: tuple[str, ...] = SPECIAL,
    **options: Any,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on TEXTS; `plain`: added tokens that are not special."""
    backend = Tokenizer(models.BPE(**options))
    backend.pre_tokenizer = splitter or smollm_splitter()
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([TEXTS[0], TEXTS[1], TEXTS[3], TEXTS[5]] * 4, trainer)
    backend.add_tokens([AddedToken(token, normalized=False) for token in plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=special[1],
        eos_token=special[2],
        unk_token=special[0],
        pad_token=special[2],
        chat_template=TEMPLATE,
    )


def tiny_llama(vocabulary: int = 400, *, tied: bool = True, heads: int = 4, groups: int = 2, **settings: Any):
    """A random Llama of 64 wide hidden states and two layers; its norms are not all one."""
    config = {
        "vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": heads, "num_key_value_heads": groups, "tie_word_embeddings": tied,
        "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
        "initializer_range": 0.2, **settings,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**config)).eval()
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.data += 0.3 * torch.randn_like(weight)
    return model


def write_file(
    file: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    pre: str = "smollm",
    more: Mapping[str, tuple[Any, gguf.GGUFValueType]] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    architecture: str = "llama",
    merges: bool = True,
) -> dict[str, np.ndarray]:
    """Write `file`; matrices in `kind`, vectors in F32. `more`: further keys; `tensors`: further tensors.

    Returns what the file holds, by the file's names, still in Transformers' order of rows.
    """
    config = model.config
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    backend = tokenizer.backend_tokenizer
    added = tokenizer.added_tokens_decoder
    tokens = [backend.id_to_token(i) for i in range(len(tokenizer))]
    writer.add_token_list(tokens)
    writer.add_token_types([(3 if added[i].special else 4) if i in added else 1 for i in range(len(tokens))])
    if merges:
        pairs = json.loads(backend.to_str())["model"]["merges"]
        writer.add_token_merges([" ".join(pair) for pair in pairs])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    for key, (value, vtype) in (more or {}).items():
        if isinstance(value, list):
            writer.kv_data[0].pop(key, None)
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, vtype)
    held: dict[str, np.ndarray] = {}
    for name, weight in named(model).items():
        as_kind = kind if weight.ndim == 2 else gguf.GGMLQuantizationType.F32
        stored = gguf.quants.quantize(weight, as_kind)
        held[name] = gguf.quants.dequantize(stored, as_kind).reshape(weight.shape)
        if architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
            heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
            stored = stored[order(len(weight), heads)]
        writer.add_tensor(name, stored, raw_dtype=as_kind)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def order(rows: int, heads: int) -> list[int]:
    """Which of Transformers' rows stands at each place in llama.cpp's order: i and i + d / 2 of a head side by side."""
    width = rows // heads
    return [head * width + i + half for head in range(heads) for i in range(width // 2) for half in (0, width // 2)]


def named(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    """The weights by the file's names, in Transformers' order of rows."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    found = {"token_embd.weight": state["model.embed_tokens.weight"], "output_norm.weight": state["model.norm.weight"]}
    if not model.config.tie_word_embeddings:
        found["output.weight"] = state["lm_head.weight"]
    for i in range(model.config.num_hidden_layers):
        for part, target in PARTS.items():
            for end in ("weight", "bias"):
                if f"model.layers.{i}.{target}.{end}" in state:
                    found[f"blk.{i}.{part}.{end}"] = state[f"model.layers.{i}.{target}.{end}"]
    return found


@torch.no_grad()
def logits(model: Any, vocabulary: int = 300) -> torch.Tensor:
    """Of two fixed rows of tokens [2, 24]."""
    ids = torch.randint(0, vocabulary, (2, 24), generator=torch.Generator().manual_seed(1))
    return model(input_ids=ids).logits
