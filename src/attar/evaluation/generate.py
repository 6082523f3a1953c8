"""What a language model writes: greedy completions of prompts, several at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import nn

from attar.tasks.base import Processor

_TOGETHER = 16
"""Prompts a batch."""


def complete(
    model: nn.Module, processor: Processor, prompts: Sequence[Sequence[int]], *, longest: int, device: str = "cpu"
) -> list[str]:
    """What the model writes after each prompt (token ids), in the prompts' order: see `write`."""
    return spelled(write(model, processor, prompts, longest=longest, device=device), processor)


def spelled(written: Sequence[Sequence[int]], processor: Processor) -> list[str]:
    """Tokens as texts, without special ones such as the end."""
    return [processor.decode(list(tokens), skip_special_tokens=True) for tokens in written]


def write(
    model: nn.Module, processor: Processor, prompts: Sequence[Sequence[int]], *, longest: int, device: str = "cpu"
) -> list[list[int]]:
    """The tokens that the model puts after each prompt, its likeliest one each time; in the prompts' order.

    The last is an end token, or the `longest`th. Prompts of like length are batched, padded on the left. The model is
    left in the mode it came in; penalties of its generation configuration do not count.
    """
    ends = end_tokens(cast("Any", model).generation_config)
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    written: list[list[int]] = [[] for _ in prompts]
    was_training = model.training
    model.to(device).eval()
    try:
        for start in range(0, len(order), _TOGETHER):
            chosen = order[start : start + _TOGETHER]
            width = max(len(prompts[at]) for at in chosen)
            ids = torch.full((len(chosen), width), int(processor.pad_token_id))
            mask = torch.zeros_like(ids)
            for row, at in enumerate(chosen):
                ids[row, width - len(prompts[at]) :] = torch.tensor(list(prompts[at]))
                mask[row, width - len(prompts[at]) :] = 1
            made = cast("Any", model).generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=longest, do_sample=False,
                pad_token_id=processor.pad_token_id, temperature=None, top_p=None, top_k=None,
                repetition_penalty=1.0, no_repeat_ngram_size=0,
            )  # fmt: skip
            for at, tokens in zip(chosen, made[:, width:].tolist(), strict=True):
                written[at] = until_end(tokens, ends)
    finally:
        model.train(was_training)
    return written


def end_tokens(generation: Any) -> frozenset[int]:
    """Tokens at which a model stops, by its generation configuration."""
    told = generation.eos_token_id
    listed = cast("list[Any]", told if isinstance(told, list) else [told])
    return frozenset(int(token) for token in listed if token is not None)


def until_end(tokens: Sequence[int], ends: Collection[int]) -> list[int]:
    """The tokens up to the first end token, which is kept."""
    stop = next((at + 1 for at, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:stop])
