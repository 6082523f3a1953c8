"""Objectives on dense logits: how far the student's answer is from the teacher's."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from attar.recipe.base import Fraction, NonNegative, Rate
from attar.recipe.objectives.base import BelowOne, Form, TemperedSpec


class ResponseSpec(TemperedSpec):
    """What objectives on logits share; the reduction tempers both sides (the KL family times its square,
    total_variation times itself, dist and logit_mse not at all).
    """

    standardise: bool = Field(default=False, description="Z-score each row of logits first (arXiv:2403.01427).")


class DistributionSpec(ResponseSpec):
    """What objectives on probabilities share; a regression has none."""


class ForwardKLSpec(DistributionSpec):
    """KL(teacher || student): mode-covering. Hinton et al. 2015."""

    kind: Literal["forward_kl"]


class ReverseKLSpec(DistributionSpec):
    """KL(student || teacher): mode-seeking. MiniLLM, 2023."""

    kind: Literal["reverse_kl"]


class JSDSpec(DistributionSpec):
    """Generalised Jensen-Shannon divergence. GKD, 2023."""

    kind: Literal["jsd"]
    beta: Fraction = Field(
        default=0.5, description="The teacher's share of the mixture; 0 is forward_kl, 1 is reverse_kl."
    )


class SkewKLSpec(DistributionSpec):
    """KL(teacher || mixture of both), bounded. DistiLLM, 2024."""

    kind: Literal["skew_kl"]
    alpha: BelowOne = Field(default=0.1, description="The teacher's share of the mixture; 0 is forward_kl.")


class SkewReverseKLSpec(DistributionSpec):
    """KL(student || mixture of both), bounded. DistiLLM, 2024."""

    kind: Literal["skew_reverse_kl"]
    alpha: BelowOne = Field(default=0.1, description="The student's share of the mixture; 0 is reverse_kl.")


class ContrastiveSkewSpec(DistributionSpec):
    """skew_kl on given text, KL(student || mixture) on what the student writes itself. DistiLLM-2, 2025."""

    kind: Literal["contrastive_skew"]
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.1, description="Share in the mixture of the side whose text it is."
    )


class AdaptiveKLSpec(DistributionSpec):
    """Forward and reverse KL, weighed by where each row is worse: the teacher's head or its tail. AKL, 2024."""

    kind: Literal["adaptive_kl"]
    head: Fraction = Field(default=0.5, description="Share of the teacher's probability that is its head.")


class ToDiSpec(DistributionSpec):
    """Forward and reverse KL, weighed output by output. ToDi, 2025."""

    kind: Literal["todi"]


class AlphaBetaSpec(DistributionSpec):
    """The alpha-beta divergence: (1, 0) is forward_kl, (0, 1) reverse_kl. ABKD, 2025."""

    kind: Literal["alpha_beta"]
    alpha: NonNegative = Field(default=0.5, description="Power of the teacher's probabilities; not 0 with beta 0.")
    beta: NonNegative = Field(default=0.5, description="Power of the student's probabilities; not 0 with alpha 0.")

    @model_validator(mode="after")
    def _some_power(self) -> AlphaBetaSpec:
        if self.alpha + self.beta == 0:
            raise ValueError("`alpha` and `beta` must not both be 0")
        return self


class TotalVariationSpec(DistributionSpec):
    """Half the summed distance of probabilities, in 0..1. Wen et al. 2023."""

    kind: Literal["total_variation"]


class TAIDSpec(DistributionSpec):
    """KL(a teacher that starts near the student || student): for a teacher that is much larger. TAID, 2025."""

    kind: Literal["taid"]
    schedule: Literal["adaptive", "linear"] = Field(
        default="adaptive",
        description="How the target moves to the teacher: along a line, or ahead of it where the term falls.",
    )
    start: Fraction = Field(default=0.4, description="The teacher's share of the target in the first step.")
    end: Fraction = Field(default=1.0, description="The teacher's share at the end; not below `start`.")
    alpha: Fraction = Field(default=5e-4, description="Largest gain on the line in one step; read by `adaptive`.")
    beta: BelowOne = Field(default=0.99, description="Momentum of the term's relative change; read by `adaptive`.")

    @model_validator(mode="after")
    def _forwards(self) -> TAIDSpec:
        if self.end < self.start:
            raise ValueError("`end` must not be below `start`: the target moves towards the teacher")
        return self


class LabelledSpec(DistributionSpec):
    """What objectives share that treat the labelled class apart; rows without a label take no part."""

    needs_labels: ClassVar[bool] = True


class DKDSpec(LabelledSpec):
    """Label and others apart: alpha KL of (label, not label) + beta KL of the other classes. DKD, 2022."""

    kind: Literal["dkd"]
    alpha: NonNegative = Field(default=1.0, description="Weight of how sure both sides are of the label.")
    beta: NonNegative = Field(default=8.0, description="Weight of the other classes; wants tuning.")


class OFASpec(LabelledSpec):
    """Cross-entropy with the teacher's probabilities, the label's raised: on the final head. OFA-KD, 2023."""

    kind: Literal["ofa"]
    gamma: Rate = Field(default=1.0, description="Power of the label's weight; 1 is the gradient of forward_kl.")


class DISTSpec(DistributionSpec):
    """Correlation of both sides' probabilities, along rows and along columns of the micro-batch. DIST, 2022."""

    form: ClassVar[Form] = "batch"

    kind: Literal["dist"]
    beta: NonNegative = Field(default=1.0, description="Weight of the rows: how one example's outputs compare.")
    gamma: NonNegative = Field(default=1.0, description="Weight of the columns: how one output's examples compare.")


class LogitMSESpec(ResponseSpec):
    """Squared distance of logits without their row mean; for regression the plain squared distance."""

    kind: Literal["logit_mse"]


OnDistributions = (
    ForwardKLSpec
    | ReverseKLSpec
    | JSDSpec
    | SkewKLSpec
    | SkewReverseKLSpec
    | ContrastiveSkewSpec
    | AdaptiveKLSpec
    | ToDiSpec
    | AlphaBetaSpec
    | TotalVariationSpec
    | TAIDSpec
    | DKDSpec
    | OFASpec
    | DISTSpec
)
"""Every `DistributionSpec`, so that a match over them is known to be whole."""
