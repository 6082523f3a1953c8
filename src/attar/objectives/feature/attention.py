"""Self-attention relations: which tokens a token resembles, in queries, keys or values.

Shape letters: N rows, T tokens, D_s and D_t the student's and the teacher's width, R relation heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attar.objectives.response.derived import divergence
from attar.objectives.response.kl import log_probabilities

_INF = float("inf")


def attention_relations(student: Tensor, teacher: Tensor, *, heads: int, mask: Tensor | None = None) -> Tensor:
    """1/(R T) sum_rt KL(r_t || r_s) per row, r = softmax(x_r x_r^T / sqrt(D / R)), in nats. MiniLM v2, Wang et al. 2020
    (arXiv:2012.15828).

    x are the queries, the keys, or the values of one layer, all heads joined: [N, T, D_s] and [N, T, D_t], float32 or
    float64. They are split anew into R = `heads` relation heads, so neither the widths nor the numbers of attention
    heads need agree (48 for base models in the paper). `mask` bool [N, T] says which tokens count (None: all): neither
    do the others stand in a relation, nor are relations theirs averaged; they may hold anything. A row without tokens
    is 0. Returns [N], in [0, inf). No gradient reaches the teacher.

    The paper adds the values of queries, keys and values: three calls. It takes the student's last layer, and for a
    large teacher one of its upper middle layers. Holds N R T^2 numbers a side. Siblings: `cosine_distance` of hidden
    states (each token alone), `cka` (tokens or rows, without a softmax). Raises ValueError where `heads` divides not
    both widths.
    """
    for side, width in (("student", student.shape[-1]), ("teacher", teacher.shape[-1])):
        if heads < 1 or width % heads:
            raise ValueError(f"attention_relations: {heads} heads do not divide the {side}'s width {width}")
    keep = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device) if mask is None else mask.bool()
    ours, theirs = log_probabilities(_relations(student, heads, keep), _relations(teacher, heads, keep))
    values = divergence(theirs, ours).mean(1)  # [N, T]
    return torch.where(keep, values, 0.0).sum(-1) / keep.sum(-1).clamp(min=1)


def _relations(vectors: Tensor, heads: int, keep: Tensor) -> Tensor:
    """[N, T, D] -> logits [N, R, T, T], -inf for tokens that do not count; all 0 where none does."""
    known = torch.where(keep.unsqueeze(-1), vectors, 0.0)
    split = known.unflatten(-1, (heads, -1)).transpose(1, 2)
    logits = split @ split.mT / math.sqrt(split.shape[-1])
    hidden = ~keep & keep.any(-1, keepdim=True)
    return logits.masked_fill(hidden[:, None, None, :], -_INF)
