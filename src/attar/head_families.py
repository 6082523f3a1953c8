"""What each family of causal language models does between its last hidden state and its logits. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What the models of one `model_type` do with their last hidden state. All but `through` name a configuration's
    field.
    """

    times: str | None = None
    """The logits are multiplied by it."""
    over: str | None = None
    """The logits are divided by it, or the states before the head, which has no bias then."""
    cap: str | None = None
    """The logits, once multiplied or divided, are soft-capped by it; there is no cap where the field is None."""
    through: str | None = None
    """A module of the model through which the last hidden state reaches the head."""


_PLAIN = """
    afmoe apertus apertus1p5_text arcee axk1 axk2 bailing_hybrid bamba biogpt bitnet bloom codegen cpmant ctrl cwm
    deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama doge dots1 dots3_note_text ernie4_5 ernie4_5_moe exaone
    exaone4 exaone_moe falcon falcon_mamba flex_olmo flint gemma glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt2
    gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3
    hy_v4 internlm3 iquestcoder jais2 jamba jetmoe kimi_linear kolibri1 laguna lara_mini lfm2 lfm2_moe lfm3 llama
    llama4_text mamba mamba2 mellum mimo_v2_flash minimax minimax_m2 minimax_m3_vl_text ministral ministral3 mistral
    mixtral mpt nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt persimmon phi phi3 phimoe qwen2
    qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen4_exp_text rwkv sarvam_mla sarvam_moe
    seed_oss smollm3 solar_open stablelm starcoder2 xglm youtu zamba zamba2 zaya
"""
_DIVIDED = "granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared minicpm3"
_CAPPED = "beam gemma2 gemma3_text gemma3n_text gemma4_text gemma4_unified_text nanochat vaultgemma"

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(_PLAIN.split(), Family()),
    **dict.fromkeys(_DIVIDED.split(), Family(over="logits_scaling")),
    **dict.fromkeys(_CAPPED.split(), Family(cap="final_logit_softcapping")),
    **dict.fromkeys(("cohere", "cohere2", "cohere2_moe"), Family(times="logit_scale")),
    "falcon_h1": Family(times="lm_head_multiplier"),
    "hyperclovax": Family(times="logits_scaling"),
    "modernbert-decoder": Family(through="lm_head"),
    "recurrent_gemma": Family(cap="logits_soft_cap"),
    "xlstm": Family(cap="output_logit_soft_cap"),
}
"""By `model_type`. A test builds each of them small, and finds the model's own logits and gradients in `project`."""
