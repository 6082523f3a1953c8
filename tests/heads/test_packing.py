"""Packed batches: every sequence's states and gradients are those of the sequence alone; who cannot is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from attar import packing
from attar.errors import PlanError
from attar.heads import body_states
from attar.packing import layout_of, packed
from attar.training.packing import verify_packing
from tiny_causal import VOCABULARY, tiny_causal

LENGTHS = (5, 9, 1, 7)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gpt2": {},
    "gemma": {},
    "gemma3_text": {"sliding_window": 4},
    "mistral": {"sliding_window": 4, "num_key_value_heads": 2},
    "qwen3_moe": {},
}


def padded(lengths: tuple[int, ...] = LENGTHS, *, left: bool = False) -> dict[str, Tensor]:
    """Random sequences; padding holds tokens that would be seen if they were read."""
    wide = max(lengths)
    ids = torch.randint(3, VOCABULARY, (len(lengths), wide), generator=torch.Generator().manual_seed(1))
    place = torch.arange(wide)
    real = torch.stack([place >= wide - n if left else place < n for n in lengths])
    return {"input_ids": ids, "attention_mask": real.long()}


def alone(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The oracle: the model's own body on each sequence by itself."""
    body, real = model.base_model, inputs["attention_mask"].bool()
    return [
        body(input_ids=ids[keep][None], use_cache=False).last_hidden_state[0]
        for ids, keep in zip(inputs["input_ids"], real, strict=True)
        if keep.any()
    ]


@pytest.mark.parametrize("left", [False, True], ids=["padded right", "padded left"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_states_and_gradients_are_those_of_each_sequence_alone(kind: str, left: bool) -> None:
    model = tiny_causal(kind, **FAMILIES[kind])
    inputs = padded(left=left)
    weights = [p for p in model.base_model.parameters() if p.requires_grad]
    own = torch.cat(alone(model, inputs))
    toward = torch.randn(own.shape, generator=torch.Generator().manual_seed(2), dtype=own.dtype)
    theirs = torch.autograd.grad((own * toward).sum(), weights, allow_unused=True)
    with packed([model]):
        states, layers = body_states(model, inputs, hidden=True)
        real = inputs["attention_mask"].bool()
        torch.testing.assert_close(states[real], own, rtol=1e-5, atol=1e-5)
        assert not states[~real].any()
        assert layers is not None
        assert all(layer.shape[:2] == real.shape for layer in layers)
        torch.testing.assert_close(layers[-1], states)
        ours = torch.autograd.grad((states[real] * toward).sum(), weights, allow_unused=True)
    assert model.config._attn_implementation == "sdpa"
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)  # some norms are float32


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5).map(tuple), left=st.booleans())
def test_any_lengths_go_together(lengths: tuple[int, ...], left: bool) -> None:
    if not any(lengths):
        return
    model, inputs = _LLAMA, padded(lengths, left=left)
    with torch.no_grad(), packed([model]):
        states, _ = body_states(model, inputs)
        expected = torch.cat(alone(model, inputs))
    torch.testing.assert_close(states[inputs["attention_mask"].bool()], expected, rtol=1e-5, atol=1e-5)


_LLAMA = tiny_causal("llama")


def test_the_model_reads_no_padding_and_makes_no_mask() -> None:
    model, inputs, seen = tiny_causal("llama"), padded(), []
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append((kwargs["hidden_states"].shape[:2], kwargs["attention_mask"])),
        with_kwargs=True,
    )
    with packed([model]):
        body_states(model, inputs)
        whole = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
        assert layout_of(model.config, whole) is None
        body_states(model, whole)
    assert seen == [((1, sum(LENGTHS)), None), ((len(LENGTHS), max(LENGTHS)), None)]


def test_activations_that_are_made_again_are_the_same() -> None:
    """In the backward pass a layer runs by itself, outside of the body."""
    gradients = []
    for again in (False, True):
        model = tiny_causal("llama").train()
        if again:
            model.activation_checkpointing_enable()
        with packed([model]):
            states, _ = body_states(model, padded())
            states.square().sum().backward()
        gradients.append([p.grad for p in model.model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("short", "has_amx", "dtype"),
    [(512, False, torch.float32), (4, False, torch.bfloat16), (512, True, torch.bfloat16)],
    ids=["short", "long", "AMX"],
)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "weights in bf16"])
def test_attention_of_short_sequences_is_float32_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, short: int, has_amx: bool, dtype: torch.dtype, autocast: bool
) -> None:
    """Its answer is bf16 either way, and as near to float64 as other parts in bf16 let it be."""
    seen: set[tuple[torch.dtype, torch.dtype]] = set()

    def spy(module: Any, query: Tensor, *given: Any, **options: Any) -> tuple[Tensor, None]:
        answer = sdpa_attention_forward(module, query, *given, **options)[0]
        in_bf16 = torch.is_autocast_enabled("cpu") or query.dtype == torch.bfloat16
        seen.add((torch.bfloat16 if in_bf16 else query.dtype, answer.dtype))
        return answer, None

    monkeypatch.setattr(packing, "sdpa_attention_forward", spy)
    monkeypatch.setattr(packing, "_SHORT", short)
    monkeypatch.setattr(packing, "_HAS_AMX", has_amx)
    model, inputs = tiny_causal("llama"), padded()
    oracle = torch.cat(alone(model, inputs)).detach()
    model = model.float() if autocast else model.bfloat16()
    with packed([model]), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states, _ = body_states(model, inputs)
    states.square().sum().backward()
    assert seen == {(dtype, dtype)}
    found = states.detach()[inputs["attention_mask"].bool()].to(oracle.dtype)
    torch.testing.assert_close(found, oracle, rtol=0, atol=0.05 * float(oracle.abs().max()))


def test_generation_is_as_before() -> None:
    model, inputs = tiny_causal("llama"), padded(left=True)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    before = model.generate(**inputs, **options)
    with packed([model]):
        assert torch.equal(model.generate(**inputs, **options), before)


def test_known_families_are_let_through() -> None:
    for kind, changed in FAMILIES.items():
        verify_packing(tiny_causal(kind, **changed), padded())


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("jamba", "its states differ by up to"),
        ("lfm3", "its states differ by up to"),
        ("nemotron", "its states differ by up to"),
        ("bloom", 'its attention is "eager"'),
        ("falcon", 'its attention is "sdpa"'),
        ("gemma2", 'its attention is "eager"'),
        ("axk2", "TypeError"),
    ],
)
def test_who_mixes_sequences_is_refused(kind: str, told: str) -> None:
    model = tiny_causal(kind)
    before = model.config._attn_implementation
    with pytest.raises(PlanError, match=f"cannot read packed batches: {told}.*packing: padded, or auto"):
        verify_packing(model, padded())
    assert model.config._attn_implementation == before
