"""Causal language models of a few kilobytes, one of each family that `attar.heads` knows."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 48
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "dff", "dim_ff", "ffn_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    "num_key_value_heads": 4,
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "dim_head"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("num_experts_per_tok", "n_group"), 2),
    **dict.fromkeys(("n_shared_experts", "topk_group", "first_k_dense_replace", "mamba_n_groups"), 1),
    **dict.fromkeys(("state_size", "mamba_d_state", "mamba_chunk_size", "mamba_n_heads", "rotary_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "kv_channels"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("lm_head_bias", "decoder_bias"), True),
    **dict.fromkeys(("logit_scale", "logits_scaling", "lm_head_multiplier"), 0.3),
    **dict.fromkeys(("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"), 0.2),
}
"""Sizes by every name that configurations have for them; factors and caps so that leaving one out is seen."""

_PER_LAYER = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
OTHERWISE: dict[str, dict[str, Any]] = {
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        **_PER_LAYER,
        "laurel_rank": 8,
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma4_text": _PER_LAYER,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "mimo_v2_flash": {"num_key_value_heads": 2},
    "minicpm3": {"dim_model_base": 10},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1},
    "opt": {"word_embed_proj_dim": 16},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"], "n_mamba_heads": 8, "mamba_ngroups": 1},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16, "num_key_value_heads": 2},
}
"""What `SMALL` cannot say for all."""
SINGLE = {"xglm"}
"""Those that cannot calculate in float64."""


def tiny_causal(kind: str, *, seed: int = 0, **changed: Any) -> PreTrainedModel:
    """A model of `kind` (its `model_type`) in eval mode, float64 where it can.

    All of its parameters are random, biases too. `changed`: fields of its configuration.
    """
    cls = CONFIG_MAPPING[kind]
    known = {field.name for field in fields(cls)}
    settings = {key: value for key, value in SMALL.items() if key in known} | OTHERWISE.get(kind, {}) | changed
    config = cls(**settings)
    config._experts_implementation = "eager"  # the grouped product of experts takes no float64
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
        model = model if kind in SINGLE else model.double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tiny_tokens(rows: int = 2, tokens: int = 6, *, seed: int = 0) -> dict[str, Tensor]:
    """Random tokens; the last row is padded on the right by two."""
    ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[-1, -2:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}
