"""A student before training, and what the making of every kind of student shares: its seed and its vocabulary."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attar.recipe.student import VocabularySpec
from attar.students.vocabulary import Reduced, reduce_vocabulary
from attar.tasks.base import Processor


@dataclass
class Student:
    """A student before training: a Transformers model with its head, its processor, and what it took over."""

    model: nn.Module
    processor: Processor
    initial: dict[str, Any]


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Draw from `seed` inside, and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def reduced_vocabulary(spec: VocabularySpec, processor: Processor, texts: Sequence[str]) -> Reduced | None:
    """The tokenizer without what the texts do not use, where the recipe wants that and there are texts."""
    return reduce_vocabulary(processor, texts, spec.min_count) if spec.keep == "used" and texts else None


def vocabulary_facts(reduced: Reduced | None, processor: Processor) -> dict[str, Any]:
    """How many tokens are kept of how many; empty where all are."""
    return {} if reduced is None else {"tokens_kept": len(reduced.kept), "tokens_of_teacher": len(processor)}
