"""What a language model writes: greedy completions of prompts, several at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from attar.tasks.base import Processor

_TOGETHER = {"cpu": 16}
_TOGETHER_ELSEWHERE = 64
"""Prompts a batch, by device."""


class Completion(NamedTuple):
    """What a model wrote after one prompt."""

    text: str
    tokens: int
    """The end token among them, where it came."""
    ended: bool
    """False: cut at the longest length allowed."""


def complete(
    model: nn.Module, processor: Processor, prompts: Sequence[Sequence[int]], *, longest: int, device: str = "cpu"
) -> list[Completion]:
    """What the model writes after each prompt (token ids), its likeliest token each time; in the prompts' order.

    It ends with an end token, which is not part of the text, or after `longest` tokens. Prompts of like length are
    batched, padded on the left. The model is left in the mode it came in.
    """
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    written: dict[int, Completion] = {}
    ends = _ends(model, processor)
    together = _TOGETHER.get(device, _TOGETHER_ELSEWHERE)
    was_training = model.training
    model.to(device).eval()
    try:
        for start in range(0, len(order), together):
            chosen = order[start : start + together]
            width = max(len(prompts[at]) for at in chosen)
            ids = torch.full((len(chosen), width), int(processor.pad_token_id))
            mask = torch.zeros_like(ids)
            for row, at in enumerate(chosen):
                ids[row, width - len(prompts[at]) :] = torch.tensor(list(prompts[at]))
                mask[row, width - len(prompts[at]) :] = 1
            made = cast("Any", model).generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=longest, do_sample=False,
                pad_token_id=processor.pad_token_id, eos_token_id=ends or None, use_cache=True,
                temperature=None, top_p=None, top_k=None,
            )  # fmt: skip
            for at, tokens in zip(chosen, made[:, width:].tolist(), strict=True):
                length = next((place for place, token in enumerate(tokens) if token in ends), None)
                own = tokens if length is None else tokens[: length + 1]
                text = processor.decode(own, skip_special_tokens=True)
                written[at] = Completion(text, len(own), length is not None)
    finally:
        model.train(was_training)
    return [written[at] for at in range(len(prompts))]


def _ends(model: nn.Module, processor: Processor) -> list[int]:
    """Ids that end an answer: the tokenizer's own, and those that the model names."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [processor.eos_token_id, *(cast("list[int]", named) if isinstance(named, list) else [named])]
    return sorted({int(token) for token in ids if token is not None})
