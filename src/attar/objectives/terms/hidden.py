"""The `hidden` objective as a term: which states of both sides are compared, through which projectors.

Shape letters: N rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from attar.objectives.feature import cosine_distance, mse_distance
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import Reduced, Share, Term
from attar.objectives.terms.layers import make_projector, project, token_rows
from attar.objectives.terms.part import Pair, PairedPart, both_states, wanted_states
from attar.recipe.objectives import HiddenSpec
from attar.signals import Inside, Pool, Signals, Wanted


class HiddenTerm(PairedPart):
    """The distance of hidden states; where a pair's widths differ, a projector is made, from `seed`."""

    def __init__(
        self, name: str, spec: HiddenSpec, pairs: Sequence[Pair], student: Inside, teacher: Inside, seed: int
    ) -> None:
        super().__init__(pairs)
        self._pool: Pool = spec.pool
        self._term = Term(name, cosine_distance if spec.distance == "cosine" else mse_distance)
        self.projectors = nn.ModuleDict()
        """By pair, `STUDENT_TEACHER`, where the widths differ."""
        for ours, theirs in pairs:
            widths = student.widths[ours], teacher.widths[theirs]
            if widths[0] != widths[1]:
                key = f"{ours}_{theirs}"
                self.projectors[key] = make_projector(*widths, seed=seed, name=f"{name}_{key}")

    @property
    def wanted(self) -> tuple[Wanted, Wanted]:
        """Hidden states of both sides, pooled as the spec says."""
        return wanted_states(self.pairs, self._pool)

    def kept(self, batch_size: int, mask: Tensor | None) -> int:
        """Rows; with `pool: none` the tokens of `mask`, or rows where there is none, as for images."""
        return int(mask.bool().sum()) if self._pool == "none" and mask is not None else batch_size

    def compare(self, pair: Pair, student: Signals, teacher: Signals | None, count: float) -> Reduced:
        """See `PairedPart.compare`."""
        mine, target = both_states(pair, self._pool, student, teacher)
        unit = 1
        if self._pool == "none":
            masks = student.mask, None if teacher is None else teacher.mask
            mine, target, unit = token_rows(mine, target, *masks, name=self._term.name)
        key = f"{pair[0]}_{pair[1]}"
        projector = cast("nn.Linear", self.projectors[key]) if key in self.projectors else None
        return reduce_rows(project(mine, projector), [Share(self._term, target, None, count * unit)])
