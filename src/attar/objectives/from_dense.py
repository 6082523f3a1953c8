"""Sparse objectives where the teacher's whole logits are at hand: the list is made here, of a block of rows at a time.

So they are row functions like those of `response/`: both sides come at the temperature in use, a teacher given as a
projection is projected block by block and shared with the other terms, and no [N, V] list of anything is held. Where
top-k is stored already there is no teacher to project: hand its list to `sparse_kl` as it is. Shape letters: N rows, V
tokens.
"""

from __future__ import annotations

from torch import Tensor

from attar.objectives.chance import uniforms
from attar.objectives.sparse import (
    at_tokens,
    joined_support,
    sampled_kl,
    sparse_kl,
    sparse_reverse_kl,
    targets_at,
    top_k,
)


def top_k_kl(student_logits: Tensor, teacher_logits: Tensor, *, k: int) -> Tensor:
    """`sparse_kl` on the teacher's `k` likeliest tokens (all V where k is larger). [N, V] twice -> [N]."""
    listed = top_k(teacher_logits, min(k, teacher_logits.shape[-1]))
    return sparse_kl(student_logits, listed.log_probs, token_ids=listed.token_ids, tail=listed.tail)


def top_k_reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, k: int) -> Tensor:
    """`sparse_reverse_kl` on the `k` likeliest tokens of either side. [N, V] twice -> [N]."""
    k = min(k, teacher_logits.shape[-1])
    support = joined_support(student_logits, top_k(teacher_logits, k).token_ids, k)
    listed = at_tokens(teacher_logits, support)
    return sparse_reverse_kl(student_logits, listed.log_probs, token_ids=support, tail=listed.tail)


def drawn_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, keys: Tensor, samples: int, proposal_temperature: float = 1.0
) -> Tensor:
    """`sampled_kl` on `samples` tokens a row, drawn by the rows' `keys` (int64 [N], see `chance`). [N, V] twice -> [N].

    The draw of a row depends on its key and the teacher's row alone.
    """
    drawn = targets_at(teacher_logits, uniforms(keys, samples), proposal_temperature=proposal_temperature)
    return sampled_kl(student_logits, drawn.log_probs, token_ids=drawn.token_ids, weights=drawn.weights)
