"""Distances between distributions over two vocabularies, by the rank of probabilities where names do not help.

Both sides' rows stand where a span begins (see `align_spans`), so that they follow the same text. Shape letters: N
rows, V_s and V_t tokens of the student and the teacher, M matched tokens. p is the teacher's distribution, q the
student's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from attar.objectives.crosstoken.vocabulary import Matched
from attar.objectives.response.derived import divergence
from attar.objectives.response.kl import log_probabilities
from attar.objectives.sparse import log_sum_exp


def uld(student_logits: Tensor, teacher_logits: Tensor, *, top: int | None = None) -> Tensor:
    """sum_i |p_(i) - q_(i)| per row, both sorted, the shorter padded with 0. Boizard et al. 2024 (arXiv:2402.12030).

    [N, V_s] and [N, V_t], float32 or float64; -inf allowed on either side. Returns [N], in [0, 2]. 0 says that the
    probabilities are the same numbers, not that they belong to the same tokens. With a temperature T it shrinks as
    1 / T, so the reduction multiplies it by T (the authors and TRL do not). No gradient reaches the teacher.

    `top` compares that many of the likeliest on either side, and all the others as one number each: a lower bound,
    short by no more than twice the smaller of what is left on the two sides. Sorting 50,000 tokens takes seven times
    as long as finding 1,000. It needs nothing but the two distributions; `aligned` and `projected_kl` know more where
    vocabularies share tokens.
    """
    return _by_rank(student_logits.softmax(-1), teacher_logits.detach().softmax(-1), top)


def aligned(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    matched: Matched,
    share: float | None = None,
    top: int | None = None,
) -> Tensor:
    """KL(p || q) over the M matched tokens and one cell for all others, and `uld` of the unmatched, per row.

    share KL + (1 - share) uld, after TRL's GOLD (Patiño et al. 2025). [N, V_s] and [N, V_t], float32 or float64; -inf
    allowed on either side, but q = 0 at a matched token that p holds possible is inf. `share` in 0..1; None is M / V_t,
    as in GOLD. `top` as in `uld`. Returns [N], in [0, inf]: 0 where q is p on matched tokens and has the same numbers
    elsewhere. The parts scale as 1 / T^2 and 1 / T, so no power of a temperature suits both: leave it at 1. No
    gradient reaches the teacher.

    GOLD's KL has no cell for the other tokens, so it is negative where the student holds the matched ones likelier
    than the teacher does, and does not end there. GOLD also compares a span of several tokens by one row times the
    probabilities of its other tokens: the same string then follows different text on the two sides. Here a row stands
    at a span's beginning, as it is; `span_kl` takes the rest of the span. Siblings: `uld` (no match), `projected_kl`
    (a token's several counterparts).
    """
    if share is not None and not 0.0 <= share <= 1.0:
        raise ValueError(f"aligned: share is {share}; it is the matched tokens' share of the value, so 0 <= share <= 1")
    student, teacher = log_probabilities(student_logits, teacher_logits)
    ours, ours_left = _split(student, matched.student_ids)
    theirs, theirs_left = _split(teacher, matched.teacher_ids)
    by_name = divergence(_with_rest(theirs, theirs_left), _with_rest(ours, ours_left))
    by_rank = _by_rank(ours_left.exp(), theirs_left.exp(), top)
    weight = len(matched.teacher_ids) / teacher.shape[-1] if share is None else share
    return weight * by_name + (1.0 - weight) * by_rank


def _split(log_probs: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Columns `ids`, in that order, and all others."""
    ids = ids.to(log_probs.device)
    others = torch.ones(log_probs.shape[-1], dtype=torch.bool, device=ids.device)
    others[ids] = False
    return log_probs.index_select(-1, ids), log_probs.index_select(-1, others.nonzero().squeeze(-1))


def _with_rest(log_probs: Tensor, left: Tensor) -> Tensor:
    return torch.cat([log_probs, log_sum_exp(left).unsqueeze(-1)], -1)


def _by_rank(student: Tensor, teacher: Tensor, top: int | None) -> Tensor:
    """Summed distance of sorted probabilities."""
    sides = [_likeliest(side, top) for side in (student, teacher)]
    width = max(side.shape[-1] for side in sides)
    ours, theirs = (functional.pad(side, (0, width - side.shape[-1])) for side in sides)
    distance = (ours - theirs).abs().sum(-1)
    if top is None:
        return distance
    left = [whole.sum(-1) - side.sum(-1) for whole, side in zip((student, teacher), sides, strict=True)]
    return distance + (left[0] - left[1]).abs()


def _likeliest(probabilities: Tensor, top: int | None) -> Tensor:
    if top is None or top >= probabilities.shape[-1]:
        return probabilities.sort(-1, descending=True).values
    return probabilities.topk(top, dim=-1).values
