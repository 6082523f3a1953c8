"""Objectives on text that a teacher or the student wrote: which tokens count, and whose text a step learns from.

sequence_nll (Kim & Rush 2016, arXiv:1606.07947) is -log q(y) of each token y of the teacher's text:
`supervised.cross_entropy(rows, targets)` on the rows that `next_token_rows` keeps. Any row objective on logits can
stand there instead. Shape letters: B texts, T tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attar.errors import TrainingError


class NextTokens(NamedTuple):
    """What each position of a batch of texts is asked for; flattened, they stand beside hidden states [B * T, D]."""

    keep: Tensor
    """bool [B, T]; the last column is never kept."""
    targets: Tensor
    """int64 [B, T]: the next token's id; 0 where nothing is kept."""


def next_token_rows(token_ids: Tensor, completion_mask: Tensor, attention_mask: Tensor) -> NextTokens:
    """Shift once: position t is asked for token t + 1, where that token is of the completion and both are attended to.

    All [B, T]: ids int64, masks bool or 0 / 1. `completion_mask` marks the tokens to be learned (the answer with its
    end-of-text token, not the prompt), `attention_mask` those that are not padding, left or right. Raises TrainingError
    where shapes differ.

    Ids decide nothing: where the padding token is the end-of-text token, the real one is kept and padding is not
    (masking ids == pad, as collators do, loses it, and the student never learns to stop). Hand logits or hidden states
    over as they are: what shifts its labels by itself would shift a second time.
    """
    if not token_ids.shape == completion_mask.shape == attention_mask.shape or token_ids.dim() != 2:
        shapes = [list(part.shape) for part in (token_ids, completion_mask, attention_mask)]
        raise TrainingError(
            f"next_token_rows: ids {shapes[0]}, completion {shapes[1]} and attention {shapes[2]} differ"
        )
    attended = attention_mask.bool()
    keep = torch.zeros_like(attended)
    keep[:, :-1] = attended[:, :-1] & attended[:, 1:] & completion_mask[:, 1:].bool()
    return NextTokens(keep, torch.where(keep, token_ids.roll(-1, 1), 0))


def on_policy(step: int, *, fraction: float, seed: int) -> bool:
    """Whether a step learns from the student's own text: with probability `fraction`, GKD's lambda (arXiv:2306.13649).

    `step` >= 0, `fraction` in 0..1 (0 never, 1 always), `seed` >= 0. Depends on these alone: all processes agree, a
    resumed run draws what it would have drawn, and a larger fraction only adds steps. Raises ValueError otherwise.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"on_policy: fraction is {fraction}; it is a share of the steps, so 0 <= fraction <= 1")
    return bool(np.random.default_rng((seed, step)).random() < fraction)
