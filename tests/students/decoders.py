"""Causal language models of a few kilobytes, one of each family that can be cut."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

TOKENS = 53
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "qwen3": {"head_dim": 6},
    "smollm3": {"no_rope_layers": [1, 0, 1, 1], "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
BATCHES = [
    {"input_ids": torch.randint(0, TOKENS, (3, 9), generator=torch.Generator().manual_seed(1))},
    {
        "input_ids": torch.randint(0, TOKENS, (2, 7), generator=torch.Generator().manual_seed(2)),
        "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3]),
    },
]


def tiny_decoder(family: str = "llama", *, tied: bool = False, seed: int = 0, **changes: object) -> PreTrainedModel:
    """Four layers, four query heads in two groups, width 16; all weights and biases are drawn, so that each counts."""
    sizes = {
        "vocab_size": TOKENS, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    fields = {**sizes, **FAMILIES[family], "tie_word_embeddings": tied, **changes}
    config = AutoConfig.for_model(family, **fields)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.normal_(1.0 if "norm" in name else 0.0, 0.3)
    return model.eval().requires_grad_(False)


def logits_of(model: PreTrainedModel, batch: dict[str, Tensor] = BATCHES[0]) -> Tensor:
    """[N, T, V], without gradient."""
    with torch.no_grad():
        return model(**batch, use_cache=False).logits
