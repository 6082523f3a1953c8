"""What a language model writes: greedy completions of prompts, several at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from attar.generation import alike, ends_of, write
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
    model.to(device)
    pad, ends = int(processor.pad_token_id), ends_of(model, processor)
    written: dict[int, Completion] = {}
    for group in alike([len(prompt) for prompt in prompts], _TOGETHER.get(device, _TOGETHER_ELSEWHERE)):
        found = write(model, [prompts[at] for at in group], pad=pad, ends=ends, longest=longest)
        for at, ids in zip(group, found, strict=True):
            text = processor.decode(ids, skip_special_tokens=True)
            written[at] = Completion(text, len(ids), ids[-1] in ends)
    return [written[at] for at in range(len(prompts))]
