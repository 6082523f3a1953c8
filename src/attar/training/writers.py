"""Who writes answers while a student is trained: the student itself, with Transformers' generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from attar.generation import Sampling, ends_of, write
from attar.tasks.base import Processor

_WRITING = 4
"""What a draw is for; the collator has 2, `text_view` 1 and 3."""


class Prompt(NamedTuple):
    """What an answer is wanted to."""

    row: int
    """Number of the training's row: with the epoch it tells all prompts of a training apart."""
    ids: np.ndarray
    room: int
    """Longest answer in tokens; at least 1."""


class Writer(Protocol):
    """Writes answers to prompts of like length; ids as sampled, the end token among them where it came."""

    ends: tuple[int, ...]
    """Tokens that end an answer."""

    def __call__(self, prompts: Sequence[Prompt], epoch: int, /) -> list[list[int]]:
        """An answer a prompt, in their order; it may be longer than the prompt's room."""
        ...


class StudentWriter:
    """The student as it is at that moment, in its weights' own precision.

    Draws depend on seed, epoch and rows alone: a resumed run repeats them, processes, whose rows differ, draw
    differently, and the training's random state is left as it was.
    """

    def __init__(self, student: nn.Module, processor: Processor, sampling: Sampling, seed: int) -> None:
        self.student, self.sampling, self.seed = student, sampling, seed
        self.pad, self.ends = int(processor.pad_token_id), ends_of(student, processor)

    def __call__(self, prompts: Sequence[Prompt], epoch: int) -> list[list[int]]:
        """One batch of generation."""
        device = next(self.student.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.seed, epoch, prompts))
            return write(
                self.student, [prompt.ids for prompt in prompts], pad=self.pad, ends=self.ends,
                longest=max(prompt.room for prompt in prompts), sampling=self.sampling,
            )  # fmt: skip


def seed_of(seed: int, epoch: int, prompts: Sequence[Prompt]) -> int:
    """A number below 2**63 for one batch of prompts: rows come once an epoch, so no two batches share it."""
    entropy = [seed, epoch, _WRITING, *(prompt.row for prompt in prompts)]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1
