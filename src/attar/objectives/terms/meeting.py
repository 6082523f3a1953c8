"""Where two tokenizers meet in a batch: which rows of both sides answer the same question, and what spans are worth.

A span is a stretch of text that begins and ends at a token boundary of both sides. Shape letters: R_s and R_t learned
tokens of the student and the teacher, V tokens of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attar.logits import Logits
from attar.mixture import Told, blocks_of, rows_of, width_of
from attar.objectives.crosstoken import Matched, TokenProjection

_BLOCK = 2**22
"""Logits of a block: 17 MB of float32."""


@dataclass(frozen=True)
class TokenMaps:
    """How the vocabularies of two tokenizers match."""

    matched: Matched
    project: Callable[[], TokenProjection]
    """Makes the projection, which takes seconds, where an objective reads it."""

    @cached_property
    def projection(self) -> TokenProjection:
        """How the student's tokens are told in the teacher's."""
        return self.project()


@dataclass(frozen=True)
class Meeting:
    """The spans of a batch, numbered in order, 0 to their number less one, the same on both sides."""

    spans: Tensor
    """int64 [R_s]: the span that each of the student's learned tokens is in; -1: none."""
    teacher_spans: Tensor
    """int64 [R_t]: the same of the teacher's."""
    labels: Tensor
    """int64 [R_s]: the student's learned tokens, whoever wrote them."""
    teacher_labels: Tensor
    """int64 [R_t]: the teacher's."""

    @property
    def begins(self) -> Tensor:
        """Bool [R_s]: the student's rows whose token begins a span."""
        return _begins(self.spans)

    def teacher_rows(self, teacher: Told) -> Told:
        """Of the teacher's rows [R_t] that of the same beginning for each of the student's [R_s]; any where none is."""
        first = _begins(self.teacher_spans).nonzero().squeeze(-1)
        rows = first[self.spans.clamp(min=0)] if len(first) else torch.zeros_like(self.spans)
        return rows_of(teacher, rows)

    def worth(self, student: Logits, teacher: Told) -> tuple[Tensor, Tensor]:
        """[R_s] each, <= 0: the teacher's log-probability of the row's span, and the student's of its other tokens.

        Both are without gradient; 0 where a row is in no span. The student's head is asked once more for it.
        """
        ours, theirs = token_log_probs(student, self.labels), token_log_probs(teacher, self.teacher_labels)
        count = int(self.spans.max()) + 1 if len(self.spans) else 0
        wholes = [_sums(values, spans, count) for values, spans in ((ours, self.spans), (theirs, self.teacher_spans))]
        there = self.spans >= 0
        own, told = (_rows(whole, self.spans.clamp(min=0)) for whole in wholes)
        others = torch.where(there, own - ours, 0.0).clamp(max=0.0)
        return torch.where(there, told, 0.0).clamp(max=0.0), others


@torch.no_grad()
def token_log_probs(logits: Told, token_ids: Tensor) -> Tensor:
    """Log-probability of one token a row, [R], a block of rows at a time."""
    head, count = blocks_of(logits), len(token_ids)
    step = max(_BLOCK // max(width_of(logits), 1), 1)
    found = [head.block(slice(0, 0)).sum(-1)]
    for start in range(0, count, step):
        block = head.block(slice(start, min(start + step, count)))
        chosen = token_ids[start : start + step].unsqueeze(-1)
        found.append(block.gather(-1, chosen).squeeze(-1) - block.logsumexp(-1))
    return torch.cat(found)


def _begins(spans: Tensor) -> Tensor:
    before = torch.cat([spans.new_full((1,), -1), spans[:-1]])[: len(spans)]
    return (spans >= 0) & (spans != before)


def _sums(values: Tensor, spans: Tensor, count: int) -> Tensor:
    inside = spans >= 0
    return values.new_zeros(count).index_add(0, spans[inside], values[inside])


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Rows of `values`; zeros where it has none at all."""
    return values[rows] if len(values) else values.new_zeros(len(rows), *values.shape[1:])
