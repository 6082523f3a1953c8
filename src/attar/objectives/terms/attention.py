"""The `attention_relations` objective as a term: queries, keys and values of both sides' attention layers.

Shape letters: N rows, T tokens, D width, R relation heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch

from attar.errors import PlanError
from attar.hooks import AttentionKey
from attar.objectives.feature import attention_relations
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import Reduced, Share, Term
from attar.objectives.terms.layers import tokens_in_place
from attar.objectives.terms.part import Pair, PairedPart, present
from attar.recipe.objectives import AttentionRelationsSpec
from attar.signals import Inside, Signals, Wanted

_MOST_HEADS = 48
"""What MiniLM v2 takes for a base model."""
_LEAST_WIDTH = 8
"""What that leaves a head of a student half as wide."""
_BLOCK = 2**22
"""Numbers [n, R, T, T] a side that are held at a time."""


class AttentionTerm(PairedPart):
    """The sum over queries, keys and values of `attention_relations`. Rows count alike, however long.

    Raises PlanError where `heads` does not divide a width.
    """

    def __init__(
        self,
        name: str,
        spec: AttentionRelationsSpec,
        pairs: Sequence[Pair],
        student: Inside,
        teacher: Inside,
        *,
        place: str,
    ) -> None:
        super().__init__(pairs)
        self._of = spec.of
        widths = {
            f"the {whose}'s {of} of layer {pair[side]}": inside.attention[AttentionKey(layer=pair[side], of=of)]
            for side, (whose, inside) in enumerate((("student", student), ("teacher", teacher)))
            for pair in pairs
            for of in spec.of
        }
        self._heads = spec.heads or default_heads(list(widths.values()))
        for what, width in widths.items():
            if width % self._heads:
                raise PlanError(
                    f"{place}.heads: {self._heads} do not divide {what}, which is {width} wide. Give a divisor of "
                    f"{math.gcd(*widths.values())}, or leave it out."
                )
        self._term = Term(name, partial(attention_relations, heads=self._heads))

    @property
    def wanted(self) -> tuple[Wanted, Wanted]:
        """The vectors of both sides."""
        sides = [
            dict.fromkeys(AttentionKey(layer=pair[side], of=of) for pair in self.pairs for of in self._of)
            for side in (0, 1)
        ]
        return Wanted(logits=False, attention=tuple(sides[0])), Wanted(logits=False, attention=tuple(sides[1]))

    def compare(self, pair: Pair, student: Signals, teacher: Signals | None, count: float) -> Reduced:
        """See `PairedPart.compare`."""
        masks = student.mask, None if teacher is None else teacher.mask
        reduced: list[Reduced] = []
        for of in self._of:
            mine, theirs = (AttentionKey(layer=layer, of=of) for layer in pair)
            ours = present(student.attention.get(mine), f"the student's {of} of attention layer {mine.layer}")
            vectors = None if teacher is None else teacher.attention.get(theirs)
            target = present(vectors, f"the teacher's {of} of attention layer {theirs.layer}")
            ours, target, keep = tokens_in_place(ours, target, *masks, name=self._term.name)
            given = {} if keep is None else {"mask": keep}
            rows = max(_BLOCK // (self._heads * max(ours.shape[1], 1) ** 2), 1)
            reduced.append(reduce_rows(ours, [Share(self._term, target, None, count, given)], chunk_rows=rows))
        values = torch.stack([value for one in reduced for value in one.values])
        return Reduced(torch.stack([one.total for one in reduced]).sum(), [values.sum()])


def default_heads(widths: Sequence[int]) -> int:
    """As many heads as divide all widths and leave the narrowest 8 numbers a head; at most 48, at least 1."""
    most = min(_MOST_HEADS, max(min(widths) // _LEAST_WIDTH, 1))
    common = math.gcd(*widths)
    return next(heads for heads in range(most, 0, -1) if common % heads == 0)
