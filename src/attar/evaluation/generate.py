"""What a language model writes: greedy completions of prompts, several at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

from attar.generation import alike, ends_of, write
from attar.tasks.base import Processor

_TOGETHER = 64
"""Prompts a batch: on a CPU, too, that is faster than fewer, though more of them wait for the longest answer."""


class Completion(NamedTuple):
    """What a model wrote after one prompt."""

    text: str
    tokens: int
    """The end token among them, where it came."""
    ended: bool
    """False: cut at the longest length allowed."""


@runtime_checkable
class Writer(Protocol):
    """A model that writes by itself, as an exported file does."""

    def write(self, prompts: Sequence[Sequence[int]], *, longest: int, ends: Collection[int]) -> list[list[int]]:
        """The tokens after each prompt: the last is one of `ends`, or the `longest`th."""
        ...


def complete(
    model: nn.Module, processor: Processor, prompts: Sequence[Sequence[int]], *, longest: int, device: str = "cpu"
) -> list[Completion]:
    """What the model writes after each prompt (token ids), in the prompts' order: `write_greedily` as text."""
    ends = ends_of(model, processor)
    return [
        Completion(processor.decode(own, skip_special_tokens=True), len(own), bool(own) and own[-1] in ends)
        for own in write_greedily(model, processor, prompts, longest=longest, device=device)
    ]


def write_greedily(
    model: nn.Module, processor: Processor, prompts: Sequence[Sequence[int]], *, longest: int, device: str = "cpu"
) -> list[list[int]]:
    """The tokens that the model puts after each prompt (token ids), its likeliest one each time; in the prompts' order.

    The last is an end token, or the `longest`th. Prompts of like length are batched, padded on the left. The model is
    left in the mode it came in.
    """
    pad, ends = int(processor.pad_token_id), ends_of(model, processor)
    if isinstance(model, Writer):
        return model.write(prompts, longest=longest, ends=ends)
    model.to(device)
    written: dict[int, list[int]] = {}
    for group in alike([len(prompt) for prompt in prompts], _TOGETHER):
        found = write(model, [prompts[at] for at in group], pad=pad, ends=ends, longest=longest)
        written |= dict(zip(group, found, strict=True))
    return [written[at] for at in range(len(prompts))]
