"""Objectives on feature maps as terms: what is learned makes the student's maps like the teacher's first.

Shape letters: N rows, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import assert_never

from torch import Tensor, nn

from attar.objectives.feature import (
    MaskedGeneration,
    ReviewFusion,
    attention_transfer,
    channel_wise,
    fitnet,
    hierarchical_context,
)
from attar.objectives.learned import convolve, make_convolution
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import Reduced, Share, Term
from attar.objectives.terms.part import Pair, PairedPart, Part, both_states, mean_of, wanted_states
from attar.recipe.objectives import (
    AttentionTransferSpec,
    ChannelWiseSpec,
    FitNetSpec,
    MaskedGenerationSpec,
    ReviewKDSpec,
)
from attar.signals import Inside, Signals, Wanted

PairedMapSpec = FitNetSpec | AttentionTransferSpec | ChannelWiseSpec | MaskedGenerationSpec


class MapTerm(PairedPart):
    """A distance of maps, pair by pair."""

    def __init__(
        self, name: str, spec: PairedMapSpec, pairs: Sequence[Pair], student: Inside, teacher: Inside, seed: int
    ) -> None:
        super().__init__(pairs)
        self._term = _term(name, spec)
        self.learned = nn.ModuleDict()
        """By pair, `STUDENT_TEACHER`: what turns the student's map into one with the teacher's channels."""
        for ours, theirs in pairs:
            key = f"{ours}_{theirs}"
            made = _learned(spec, student.widths[ours], teacher.widths[theirs], seed, f"{name}_{key}")
            if made is not None:
                self.learned[key] = made

    @property
    def wanted(self) -> tuple[Wanted, Wanted]:
        """Maps of both sides."""
        return wanted_states(self.pairs, "map")

    def compare(self, pair: Pair, student: Signals, teacher: Signals | None, count: float) -> Reduced:
        """See `PairedPart.compare`."""
        ours, theirs = both_states(pair, "map", student, teacher)
        key = f"{pair[0]}_{pair[1]}"
        if key in self.learned:
            ours = _brought(ours, self.learned[key])
        return reduce_rows(ours, [Share(self._term, theirs, None, count)])


class ReviewTerm(Part):
    """ReviewKD: the student's maps are fused from the deepest on, each is compared, and the mean counts."""

    def __init__(
        self, name: str, spec: ReviewKDSpec, pairs: Sequence[Pair], student: Inside, teacher: Inside, seed: int
    ) -> None:
        super().__init__()
        self.pairs = tuple(sorted(pairs))
        """Shallow to deep."""
        channels = [(student.widths[ours], teacher.widths[theirs]) for ours, theirs in self.pairs]
        self.fusion = ReviewFusion(
            [ours for ours, _ in channels], [theirs for _, theirs in channels], width=spec.width, seed=seed, name=name
        )
        self._term = Term(name, hierarchical_context)

    @property
    def wanted(self) -> tuple[Wanted, Wanted]:
        """Maps of both sides."""
        return wanted_states(self.pairs, "map")

    def forward(self, student: Signals, teacher: Signals | None, count: float) -> Reduced:
        """See `Part.forward`."""
        ours, theirs = zip(*(both_states(pair, "map", student, teacher) for pair in self.pairs), strict=True)
        shares = [Share(self._term, target, None, count) for target in theirs]
        return mean_of([reduce_rows(made, [s]) for made, s in zip(self.fusion(ours), shares, strict=True)])


def _term(name: str, spec: PairedMapSpec) -> Term:
    match spec:
        case FitNetSpec() | MaskedGenerationSpec():
            return Term(name, fitnet)
        case AttentionTransferSpec():
            return Term(name, partial(attention_transfer, power=spec.power))
        case ChannelWiseSpec():
            return Term(name, channel_wise, temperature=spec.temperature, temperature_power=2)
        case _:
            assert_never(spec)


def _learned(spec: PairedMapSpec, ours: int, theirs: int, seed: int, name: str) -> nn.Module | None:
    match spec:
        case AttentionTransferSpec():
            return None
        case MaskedGenerationSpec():
            return MaskedGeneration(ours, theirs, seed=seed, name=name, masked=spec.masked, of=spec.of)
        case FitNetSpec() | ChannelWiseSpec():
            return None if ours == theirs else make_convolution(ours, theirs, 1, seed=seed, name=name)
        case _:
            assert_never(spec)


def _brought(maps: Tensor, learned: nn.Module) -> Tensor:
    return convolve(maps, learned) if isinstance(learned, nn.Conv2d) else learned(maps)
