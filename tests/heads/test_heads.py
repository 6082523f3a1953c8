"""Heads and bodies: what is seen through, what is refused and how, and what the check of a model catches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from attar.errors import PlanError, TrainingError
from attar.heads import body_states, head_of, project, verify_head
from tiny_causal import tiny_causal, tiny_tokens

INPUTS = tiny_tokens()


class Wrapper(nn.Module):
    """As DDP: the model is `module`, and nothing else is to be seen."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)


class Adapted(nn.Module):
    """As a PeftModel, with what is asked of one."""

    def __init__(self, model: nn.Module, *, prompt: bool = False) -> None:
        super().__init__()
        self.base_model = Wrapper(model)
        self.active_peft_config = type("Config", (), {"is_prompt_learning": prompt})()

    def get_base_model(self) -> nn.Module:
        return self.base_model.module

    def forward(self, **inputs: Any) -> Any:
        return self.base_model(**inputs)


def forbid(*_: Any, **__: Any) -> Tensor:
    raise AssertionError("the head ran")


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads(tied: bool) -> None:
    model = tiny_causal("llama", tie_word_embeddings=tied)
    head = head_of(model)
    assert (head.weight is model.get_input_embeddings().weight) == tied
    assert head.weight is model.lm_head.weight
    assert head.bias is None
    assert (head.scale, head.softcap) == (1.0, None)
    verify_head(model, INPUTS)


def test_a_bias_is_part_of_the_head() -> None:
    model = tiny_causal("phi")
    assert head_of(model).bias is model.lm_head.bias
    states, _ = body_states(model, INPUTS)
    own = model(**INPUTS).logits.flatten(0, 1)
    torch.testing.assert_close(project(model, states.flatten(0, 1)).dense(), own)
    model.lm_head.bias.data.add_(1.0)
    torch.testing.assert_close(project(model, states.flatten(0, 1)).dense(), own + 1.0)


def test_the_cap_comes_after_the_scale() -> None:
    """No family has both, so the order is that of `Projection`; by hand, in float64."""
    model = tiny_causal("gemma2", final_logit_softcapping=0.7)
    states = torch.randn(3, 32, dtype=torch.float64)
    made = project(model, states)
    assert (made.scale, made.softcap) == (1.0, 0.7)
    raw = states @ model.lm_head.weight.T
    torch.testing.assert_close(made.dense(), 0.7 * torch.tanh(raw / 0.7))
    both = type(made)(states, made.weight, None, scale=3.0, softcap=0.7)
    torch.testing.assert_close(both.dense(), 0.7 * torch.tanh(3.0 * raw / 0.7))


def test_a_cap_of_none_is_no_cap() -> None:
    model = tiny_causal("gemma2", final_logit_softcapping=None)
    assert head_of(model).softcap is None
    verify_head(model, INPUTS)


def test_the_body_never_runs_the_head_takes_no_labels_and_keeps_no_cache() -> None:
    model = tiny_causal("llama")
    asked: dict[str, Any] = {}
    model.model.register_forward_pre_hook(lambda _, __, named: asked.update(named), with_kwargs=True)
    model.lm_head.forward = forbid
    with pytest.raises(AssertionError, match="the head ran"):
        model(**INPUTS)
    asked.clear()
    body_states(model, {**INPUTS, "labels": INPUTS["input_ids"]})
    assert "labels" not in asked
    assert asked["use_cache"] is False
    assert asked["input_ids"] is INPUTS["input_ids"]


def test_states_are_rows() -> None:
    model = tiny_causal("llama")
    with pytest.raises(TrainingError, match="Flatten batch and tokens into rows first"):
        project(model, body_states(model, INPUTS)[0])


def test_wrappers_are_seen_through() -> None:
    model = tiny_causal("llama")
    states, _ = body_states(model, INPUTS)
    compiled = torch.compile(model, backend="eager")
    for wrapped in (Wrapper(model), compiled, Wrapper(compiled), Adapted(model), Wrapper(Adapted(Wrapper(model)))):
        assert head_of(wrapped).weight is model.lm_head.weight
        torch.testing.assert_close(body_states(wrapped, INPUTS)[0], states)
    verify_head(Wrapper(Adapted(model)), INPUTS)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 reads it
def test_lora_of_peft_is_in_the_body_and_not_in_the_head() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = tiny_causal("llama")
    plain, _ = body_states(model, INPUTS)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    assert head_of(adapted).weight is model.lm_head.weight
    assert not torch.allclose(body_states(adapted, INPUTS)[0], plain)
    verify_head(adapted, INPUTS)
    for more in ({"target_modules": ["lm_head"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}):
        with pytest.raises(PlanError, match="leave the head out of an adapter's target_modules and modules_to_save"):
            head_of(peft.get_peft_model(tiny_causal("llama"), peft.LoraConfig(**more)))
    prompt = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    with pytest.raises(PlanError, match="PeftModelForCausalLM puts a learned prompt before the texts"):
        body_states(peft.get_peft_model(tiny_causal("llama"), prompt), INPUTS)


def test_a_learned_prompt_is_refused() -> None:
    with pytest.raises(PlanError, match=r"Adapted puts a learned prompt before the texts.*Use an adapter"):
        body_states(Adapted(tiny_causal("llama"), prompt=True), INPUTS)


@pytest.mark.parametrize("ask", [head_of, lambda model: body_states(model, INPUTS), lambda m: verify_head(m, INPUTS)])
def test_what_cannot_be_taken_apart_is_refused_by_name(ask: Any) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertForMaskedLM(BertConfig(vocab_size=30, **sizes))
    with pytest.raises(PlanError, match=r"BertForMaskedLM \(bert\): its head is not known here; open an issue or hand"):
        ask(bert)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=30, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2))
    with pytest.raises(PlanError, match=r"T5ForConditionalGeneration \(t5\) has an encoder and a decoder, but only"):
        ask(t5)
    seen = tiny_causal("llama")
    seen.config.model_type = "gemma3"
    with pytest.raises(PlanError, match=r"\(gemma3\): its head .* Its text part alone, gemma3_text, is known."):
        ask(seen)
    with pytest.raises(PlanError, match=r"Linear is no model of Transformers: it has no config.model_type"):
        ask(nn.Linear(2, 2))


def test_a_head_that_is_no_plain_layer_is_refused() -> None:
    classifier = LlamaForSequenceClassification(tiny_causal("llama").config)
    with pytest.raises(PlanError, match=r"LlamaForSequenceClassification \(llama\) has no head, but a plain nn.Linear"):
        head_of(classifier)

    class Quantized(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input.round())

    model = tiny_causal("llama")
    model.lm_head = Quantized(32, 48)
    with pytest.raises(PlanError, match=r"has a Quantized as its head, but a plain nn.Linear is needed. Load a causal"):
        head_of(model)


def test_an_offloaded_head_is_refused() -> None:
    model = tiny_causal("llama")
    model.lm_head.to("meta")
    with pytest.raises(PlanError, match=r"\(llama\): the weight of its head is offloaded. Load the model onto one"):
        head_of(model)


class Doubled(LlamaForCausalLM):
    """Multiplies its logits behind our back."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        answer = super().forward(*args, **kwargs)
        answer.logits = answer.logits * 2
        return answer


class Shortened(LlamaForCausalLM):
    """Leaves out the last tokens of its vocabulary."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        answer = super().forward(*args, **kwargs)
        answer.logits = answer.logits[..., :-8]
        return answer


def test_a_forward_that_changes_the_logits_is_caught() -> None:
    config = tiny_causal("llama").config
    with pytest.raises(PlanError, match=r"Doubled \(llama\) does not answer as its body and head do: logits differ by"):
        verify_head(Doubled(config), INPUTS)
    with pytest.raises(PlanError, match=r"Shortened.*: logits are \[2, 6, 40\], its head gives \[2, 6, 48\]. Its"):
        verify_head(Shortened(config), INPUTS)


def test_logits_that_are_no_numbers_are_not_let_pass() -> None:
    model = tiny_causal("llama")
    model.lm_head.weight.data[0] = torch.nan
    with pytest.raises(PlanError, match="logits differ by up to nan"):
        verify_head(model, INPUTS)


def test_the_check_has_no_dropout_and_leaves_each_modules_mode() -> None:
    model = tiny_causal("gpt2", resid_pdrop=0.5, embd_pdrop=0.5).train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    verify_head(model, INPUTS)
    assert [module.training for module in model.modules()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["gemma2", "granite", "cohere", "mamba", "llama"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_check_knows_that_halves_are_rounded(kind: str, dtype: torch.dtype) -> None:
    verify_head(tiny_causal(kind).to(dtype), INPUTS)


def test_padding_is_not_compared() -> None:
    """What a model says of padding is anyone's guess; here it is not a number."""
    model = tiny_causal("llama")
    verify_head(model, {**INPUTS, "attention_mask": torch.ones(2, 6).bool()})

    def spoil(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output.masked_fill(~INPUTS["attention_mask"].bool().unsqueeze(-1), torch.nan)

    model.lm_head.register_forward_hook(spoil)
    verify_head(model, INPUTS)
