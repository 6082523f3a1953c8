"""What a model writes as ids: by the settings given alone, in eval mode, with every mode put back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Cache, GenerationConfig

from attar.generation import Sampling, alike, ends_of, write
from tiny_language import tiny_bpe, tiny_llama

TOKENIZER = tiny_bpe()
END = int(TOKENIZER.eos_token_id)
PROMPTS = [TOKENIZER(text)["input_ids"] for text in ("the cat", "the small fox wants the", "old")]
PLAIN: dict[str, Any] = {"pad": END, "ends": (END,), "longest": 8}
DRAWN = Sampling(temperature=1.3, top_p=0.9)


def test_the_likeliest_are_those_of_a_loop_without_cache_and_padding() -> None:
    model = tiny_llama(TOKENIZER)
    for prompt, written in zip(PROMPTS, write(model, PROMPTS, **PLAIN), strict=True):
        ids = list(prompt)
        for _ in range(8):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == END:
                break
        assert written == ids[len(prompt) :]


@pytest.mark.parametrize("selects", [True, False])
def test_who_has_ended_leaves_the_batch(monkeypatch: pytest.MonkeyPatch, selects: bool) -> None:
    model, batches = tiny_llama(TOKENIZER), list[int]()
    generator = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(len(TOKENIZER), (1 + n % 5,), generator=generator).tolist() for n in range(24)
    ]  # of several lengths
    often = write(model, prompts, pad=END, ends=(), longest=30)
    ends = sorted({one[step] for one, step in zip(often, (2, 7, 11, 16, 25), strict=False)})
    alone = [write(model, [one], pad=END, ends=ends, longest=30)[0] for one in prompts]
    if not selects:
        monkeypatch.delattr(Cache, "batch_select_indices")
    model.model.layers[0].register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    assert write(model, prompts, pad=END, ends=ends, longest=30) == alone
    assert len(set(map(len, alone))) > 3
    assert batches == sorted(batches, reverse=True)
    spent, needed = sum(batches), sum(map(len, alone))
    assert needed <= spent < 4 * needed / 3 + len(prompts) < len(prompts) * max(map(len, alone))


def test_draws_follow_temperature_and_nucleus() -> None:
    """The first token of 20,000 draws, against the probabilities of logits over 1.3, cut to the likeliest 0.9."""
    model = tiny_llama(TOKENIZER)
    with torch.no_grad():
        chances = (model(torch.tensor([PROMPTS[0]])).logits[0, -1].double() / 1.3).softmax(-1)
    order = chances.argsort(descending=True)
    kept = order[chances[order].cumsum(0) - chances[order] < 0.9]
    expected = torch.zeros_like(chances)
    expected[kept] = chances[kept] / chances[kept].sum()
    torch.manual_seed(0)
    drawn = write(model, [PROMPTS[0]] * 20000, pad=END, ends=(), longest=1, sampling=DRAWN)
    seen = torch.bincount(torch.tensor(drawn)[:, 0], minlength=len(chances)) / 20000
    assert bool((seen[expected == 0] == 0).all())
    assert float((seen - expected).abs().sum()) < 0.12


def test_a_models_own_settings_do_not_count_and_come_back() -> None:
    model = tiny_llama(TOKENIZER)
    plain = write(model, PROMPTS, **PLAIN)
    own = GenerationConfig(repetition_penalty=5.0, min_new_tokens=7, eos_token_id=5, top_k=1, max_length=9)
    model.generation_config = own
    model.train()
    model.model.layers[0].eval()
    assert write(model, PROMPTS, **PLAIN) == plain
    assert model.generation_config is own
    assert model.training
    assert not model.model.layers[0].training


def test_checkpointed_layers_write_with_their_cache() -> None:
    model = tiny_llama(TOKENIZER)
    plain, widths = write(model, PROMPTS, **PLAIN), []
    model.activation_checkpointing_enable()
    model.train()
    model.model.layers[0].register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    assert write(model, PROMPTS, **PLAIN) == plain
    assert set(widths[1:]) == {1}


def test_weights_learn_as_before_after_writing() -> None:
    model = tiny_llama(TOKENIZER).train()
    write(model, PROMPTS, **PLAIN, sampling=DRAWN)
    model(torch.tensor([PROMPTS[1]])).logits.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(("named", "ends"), [(7, {END, 7}), ([9, 7], {END, 7, 9}), (END, {END}), (None, {END})])
def test_ends_are_the_tokenizers_and_the_models(named: int | list[int] | None, ends: set[int]) -> None:
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=named))
    assert set(ends_of(model, TOKENIZER)) == ends  # type: ignore[arg-type]


@pytest.mark.parametrize("together", [1, 2, 5])
def test_groups_hold_all_prompts_once_by_length(together: int) -> None:
    lengths = [5, 1, 4, 1, 3]
    groups = alike(lengths, together)
    assert max(map(len, groups)) <= together
    flat = [at for group in groups for at in group]
    assert sorted(flat) == list(range(5))
    assert [lengths[at] for at in flat] == sorted(lengths)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 reads it
def test_an_adapter_writes_what_it_writes_merged() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_llama(TOKENIZER), settings)
    written = write(model, PROMPTS, **PLAIN)
    assert written != write(tiny_llama(TOKENIZER), PROMPTS, **PLAIN)
    assert written == write(model.merge_and_unload(), PROMPTS, **PLAIN)
