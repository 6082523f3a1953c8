"""Which tokens of two vocabularies say the same: as pairs, or as a projection of one vocabulary on the other.

Shape letters: N rows, V_s and V_t tokens of the student and the teacher, M matched tokens, E entries of a projection.
p is the teacher's distribution, q the student's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from attar.objectives.response.derived import divergence

Name = TypeVar("Name", bound=Hashable)

_INF = float("inf")
_DECAY = 0.1
_LONGEST = 4


@dataclass(frozen=True)
class Matched:
    """Pairs of tokens that are the same, each token in one pair at most."""

    student_ids: Tensor
    """int64 [M]."""
    teacher_ids: Tensor
    """int64 [M]."""


@dataclass(frozen=True)
class TokenProjection:
    """A sparse matrix [V_s, V_t] whose rows sum to 1: how a student token's probability is told in teacher tokens."""

    student_ids: Tensor
    """int64 [E]: row."""
    teacher_ids: Tensor
    """int64 [E]: column; a pair stands here once."""
    weights: Tensor
    """[E], > 0."""


def match_tokens(student: Mapping[Name, int], teacher: Mapping[Name, int]) -> Matched:
    """Tokens with the same name, from name -> id of both sides, each id under one name; names are bytes or strings.

    TRL's GOLD takes the vocabularies' strings, in which a space is Ġ for one family and ▁ for another: take their
    bytes (`piece_bytes`). A lower-casing vocabulary's tokens match cased ones that they were not trained to mean;
    leave those out. No match at all is legal.
    """
    found = sorted((student[name], teacher[name]) for name in student if name in teacher)
    return Matched(*torch.tensor(found, dtype=torch.int64).reshape(-1, 2).unbind(-1))


def project_tokens(
    student: Mapping[str, int],
    teacher: Mapping[str, int],
    *,
    to_teacher: Callable[[str], Sequence[int]],
    to_student: Callable[[str], Sequence[int]],
) -> TokenProjection:
    """A projection by string rules, after X-Token, Sreenivas et al. 2026 (arXiv:2605.21699) and its authors' code.

    `student` and `teacher` give text -> id; `to_teacher` and `to_student` tokenize a text, without special tokens. A
    token with the same text on both sides goes there alone. Any other is tokenized by the other side, and its parts
    weighted 1 : 0.1 : 0.01 : 0.001 (four at most); so are teacher tokens of no student token's text, the other way
    round. Rows are then scaled to sum to 1. The authors also match special tokens by similarity; give equal names to
    those that mean the same.
    """
    entries: dict[tuple[int, int], float] = {}
    for text, ours in student.items():
        if text in teacher:
            entries[ours, teacher[text]] = 1.0
        else:
            for theirs, weight in _weighted(to_teacher(text)):
                entries[ours, theirs] = entries.get((ours, theirs), 0.0) + weight
    exact = {ours for text, ours in student.items() if text in teacher}
    for text, theirs in teacher.items():
        if text not in student:
            for ours, weight in _weighted(to_student(text)):
                if ours not in exact:
                    entries[ours, theirs] = entries.get((ours, theirs), 0.0) + weight
    pairs = torch.tensor(sorted(entries), dtype=torch.int64).reshape(-1, 2)
    weights = torch.tensor([entries[pair] for pair in sorted(entries)])
    ours = pairs[:, 0]
    sums = torch.zeros(max(student.values(), default=-1) + 1).index_add(0, ours, weights)
    return TokenProjection(ours, pairs[:, 1], weights / sums[ours])


def projected_kl(student_logits: Tensor, teacher_logits: Tensor, *, projection: TokenProjection) -> Tensor:
    """KL(p || q W) per row, in nats, W the `projection` [V_s, V_t]. X-Token's P-KL (arXiv:2605.21699).

    [N, V_s] and [N, V_t], float32 or float64; -inf allowed on either side. p is taken over the teacher's tokens that W
    can reach, and scaled to sum to 1 there. Returns [N], in [0, inf]: 0 where the projected student is that p; inf
    where p > 0 and all that leads there has q = 0. No gradient reaches the teacher. With W the identity it is
    `forward_kl`. Where W is not one to one, p and q W do not meet as both flatten, so leave the temperature at 1.

    Unlike the authors' code it takes all of the vocabulary (not the batch's top-k, renormalised), adds up in the log
    domain instead of adding 1e-10, and compares rows at the beginning of spans instead of a span's mean. Choose it
    over `aligned` where tokens that matter (numbers) are cut differently, so that ranks would have to stand in for
    names.
    """
    device = student_logits.device
    ours, theirs = projection.student_ids.to(device), projection.teacher_ids.to(device)
    paths = student_logits.log_softmax(-1).index_select(-1, ours) + projection.weights.to(student_logits).log()
    reached = torch.zeros(teacher_logits.shape[-1], dtype=torch.bool, device=device)
    reached[theirs] = True
    projected = _log_add_into(paths, theirs, teacher_logits.shape[-1])
    target = teacher_logits.detach().masked_fill(~reached, -_INF).log_softmax(-1)
    return divergence(target, projected)


def _log_add_into(values: Tensor, columns: Tensor, width: int) -> Tensor:
    """Logarithm of the sum of exp(values) [N, E] that go into each of `width` columns; -inf where that is nothing."""
    empty = values.new_full((len(values), width), -_INF)
    high = empty.scatter_reduce(-1, columns.expand(values.shape), values.detach(), "amax")
    high = high.clamp(min=torch.finfo(values.dtype).min)
    total = torch.zeros_like(empty).index_add(-1, columns, (values - high.index_select(-1, columns)).exp())
    some = total > 0
    return torch.where(some, torch.where(some, total, 1.0).log() + high, -_INF)


def _weighted(ids: Sequence[int]) -> list[tuple[int, float]]:
    weights = [_DECAY**place for place in range(len(ids[:_LONGEST]))]
    return [(token, weight / sum(weights)) for token, weight in zip(ids, weights, strict=False)]
