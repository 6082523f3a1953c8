"""Objectives on a few of the teacher's probabilities, and between vocabularies; here a dense teacher says them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from attar.objectives.chance import row_keys
from attar.objectives.crosstoken import Matched, TokenProjection, aligned, projected_kl, span_kl, uld
from attar.objectives.from_dense import drawn_kl, top_k_kl, top_k_reverse_kl
from attar.objectives.sparse import at_tokens, sampled_kl, sparse_kl, sparse_reverse_kl, top_k
from objectives.laws.entry import Entry

ESTIMATE = "one draw's value is an estimate, of either sign"
ROUNDED = "0 where both agree only to the last digits, as 1 minus a sum is rounded; tested with its own tolerance"


def of_top(student: Tensor, teacher: Tensor) -> Tensor:
    listed = top_k(teacher, 3)
    return sparse_kl(student, listed.log_probs, token_ids=listed.token_ids, tail=listed.tail)


def of_top_without_tail(student: Tensor, teacher: Tensor) -> Tensor:
    listed = top_k(teacher, 3)
    return sparse_kl(student, listed.log_probs, token_ids=listed.token_ids)


def of_top_in_reverse(student: Tensor, teacher: Tensor) -> Tensor:
    """The teacher's list alone: with the student's own tokens, ties among them would decide which bound it is."""
    listed = top_k(teacher, 4)
    return sparse_reverse_kl(student, listed.log_probs, token_ids=listed.token_ids, tail=listed.tail)


def of_a_draw(student: Tensor, teacher: Tensor) -> Tensor:
    """Always the same draw: the teacher's first, second (twice) and fourth token, from a hotter proposal."""
    token_ids = teacher.argsort(-1, descending=True)[:, [0, 1, 1, 3]]
    log_p, log_r = (logits.log_softmax(-1).gather(-1, token_ids) for logits in (teacher, teacher / 2))
    return sampled_kl(student, log_p, token_ids=token_ids, weights=(log_p - log_r).exp() / 4)


def drawn_by_row(student: Tensor, teacher: Tensor) -> Tensor:
    """A row is known by how much likelier its first token is than its last."""
    known = (teacher[:, 0] - teacher[:, -1]).nan_to_num(0.0).mul(8).round().clamp(-1000, 1000).long()
    return drawn_kl(student, teacher, keys=row_keys(known, seed=0, name="sampled_kl", progress=0.5), samples=4)


def of_last_columns(student: Tensor, teacher: Tensor) -> Tensor:
    """The last three tokens match; counted from the end, they stay where another one is left out."""
    ids = teacher.shape[-1] - torch.tensor([1, 2, 3])
    return aligned(student, teacher, matched=Matched(ids, ids), share=0.6)


def projected_on_itself(student: Tensor, teacher: Tensor) -> Tensor:
    ids = torch.arange(teacher.shape[-1])
    return projected_kl(student, teacher, projection=TokenProjection(ids, ids, torch.ones(len(ids))))


def of_a_span(student: Tensor, teacher: Tensor) -> Tensor:
    """The row's token is the teacher's likeliest; the span's others are as likely to both."""
    others = teacher.new_full((len(teacher),), -0.7)
    token_ids = teacher.argmax(-1)
    span = at_tokens(teacher, token_ids.unsqueeze(-1)).log_probs.squeeze(-1) + others
    return span_kl(student, span, token_ids=token_ids, others=others)


DRAWN = {"divergence": ESTIMATE, "temperature_power": "one draw falls as 1 / T, only their mean as 1 / T^2"}

SPARSE = [
    Entry("sparse_kl", "sparse_kl of a dense teacher", partial(top_k_kl, k=3)),
    Entry(
        "sparse_reverse_kl",
        "sparse_reverse_kl of a dense teacher",
        partial(top_k_reverse_kl, k=3),
        {"shift_invariant": "rounding after a shift makes ties among likeliest tokens, and these decide the list"},
    ),
    Entry("sampled_kl", "sampled_kl of a dense teacher", drawn_by_row, DRAWN),
    Entry("sparse_kl", "sparse_kl", of_top),
    Entry("sparse_kl", "sparse_kl without a stored tail", of_top_without_tail, {"divergence": ROUNDED}),
    Entry("sparse_reverse_kl", "sparse_reverse_kl", of_top_in_reverse),
    Entry(
        "sampled_kl",
        "sampled_kl",
        of_a_draw,
        DRAWN,
    ),
    Entry("uld", "uld", uld, power=1),
    Entry("uld", "uld of the top 3", partial(uld, top=3), power=1),
    Entry("aligned", "aligned", of_last_columns, {"temperature_power": "a KL falls as 1 / T^2, a distance as 1 / T"}),
    Entry("projected_kl", "projected_kl", projected_on_itself),
    Entry(
        "span_kl",
        "span_kl",
        of_a_span,
        {"divergence": ROUNDED, "temperature_power": "the span's other tokens are not tempered with the row"},
    ),
]
