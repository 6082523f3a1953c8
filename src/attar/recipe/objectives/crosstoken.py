"""Objectives between two tokenizers: they compare where both sides have read the same text (language models)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attar.recipe.base import Fraction, Positive
from attar.recipe.objectives.base import ObjectiveSpec, TemperedSpec


class CrossTokenSpec(ObjectiveSpec):
    """What objectives share that need no common vocabulary: a row is a stretch of text that both sides begin alike."""


class ULDSpec(CrossTokenSpec, TemperedSpec):
    """Distance of both sides' sorted probabilities, whatever tokens they belong to. ULD, 2024."""

    kind: Literal["uld"]
    top: Positive | None = Field(
        default=None, description="Compare this many of the likeliest, and the rest as one; absent: all of them."
    )


class AlignedSpec(CrossTokenSpec):
    """KL over the tokens that both vocabularies have, and uld of the others. After GOLD, 2025."""

    kind: Literal["aligned"]
    share: Fraction | None = Field(
        default=None, description="Weight of the KL; absent: the share of the teacher's tokens that have a counterpart."
    )
    top: Positive | None = Field(default=None, description="As of `uld`, for the others.")


class ProjectedKLSpec(CrossTokenSpec):
    """KL with the student's probabilities told in the teacher's tokens. X-Token, 2026."""

    kind: Literal["projected_kl"]


class SpanKLSpec(CrossTokenSpec):
    """KL of whole stretches of text: this one, or any other. Approximate likelihood matching, 2025."""

    kind: Literal["span_kl"]


OnTwoTokenizers = ULDSpec | AlignedSpec | ProjectedKLSpec | SpanKLSpec
"""Every `CrossTokenSpec`."""
CROSS_KINDS = ("uld", "aligned", "projected_kl", "span_kl")
"""Their names, for messages."""
