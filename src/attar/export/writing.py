"""What a file of a language model does step by step against its checkpoint: through its cache, and when both write on.

Shape letters: N texts, T tokens of one, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attar.answers import agreement, mean_kl
from attar.export.decoding import DecoderRunner
from attar.facts import ContinuedFacts, StepFacts
from attar.tasks.sequences import Sequences

Array = NDArray[Any]
TEXTS, PROMPTS, LONGEST = 8, 16, 32
"""Texts that go through the cache, prompts that are written on, and tokens of each at most."""
_TOKENS = 64
"""Of a text that goes through the cache."""


def spread(encoded: Sequences, most: int) -> list[int]:
    """At most `most` sequences of two tokens or more, evenly spread."""
    fit = np.flatnonzero(encoded.lengths > 1)
    return [int(fit[at]) for at in np.unique(np.linspace(0, len(fit) - 1, min(len(fit), most)).round().astype(int))]


def prompts_of(encoded: Sequences, most: int = PROMPTS) -> list[list[int]]:
    """How some texts begin: all before the first learned token, or half of a text that is learned from the start."""
    found: list[list[int]] = []
    for row in spread(encoded, most):
        ids, learned = encoded.inputs["input_ids"][row], np.flatnonzero(encoded.learned[row])
        first = int(learned[0]) if len(learned) else len(ids)
        found.append([int(token) for token in ids[: first if first > 1 else max(len(ids) // 2, 1)]])
    return found


def compare_steps(runner: DecoderRunner, checkpoint: nn.Module, encoded: Sequences) -> StepFacts:
    """The first half of some texts at once, the second token by token, against the checkpoint asked at once."""
    ours: list[Array] = []
    theirs: list[Array] = []
    for row in spread(encoded, TEXTS):
        ids = np.asarray(encoded.inputs["input_ids"][row][:_TOKENS], np.int64)
        ours.append(runner.stepwise(ids, len(ids) // 2)[len(ids) // 2 :])
        with torch.inference_mode():
            whole = checkpoint(input_ids=torch.from_numpy(ids)[None]).logits[0]
        theirs.append(whole[len(ids) // 2 :].float().numpy())
    one, other = np.concatenate(theirs), np.concatenate(ours)
    finite = bool(np.isfinite(other).all())
    return StepFacts(
        max_abs=float(np.abs(one - other).max()) if finite else float("inf"),
        agreement=agreement(one, other, "single_label") if finite else 0.0,
        kl=mean_kl(one, other, "single_label") if finite else float("inf"),
        n=len(one),
    )


def compare_written(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> ContinuedFacts:
    """What a file wrote after each prompt, place by place, against what the checkpoint wrote."""
    tokens, same, places = 0, 0, [_parted(one, other) for one, other in zip(ours, theirs, strict=True)]
    for one, other in zip(ours, theirs, strict=True):
        tokens += max(len(one), len(other))
        same += sum(a == b for a, b in zip(one, other, strict=False))
    return ContinuedFacts(
        prompts=len(ours),
        tokens=tokens,
        same=same / tokens if tokens else 1.0,
        unchanged=sum(place is None for place in places),
        first_difference=min((place for place in places if place is not None), default=None),
    )


def _parted(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first place where two texts differ; None: they are the same."""
    if list(one) == list(other):
        return None
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)
