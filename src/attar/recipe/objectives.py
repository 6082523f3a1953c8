"""`objectives`: the weighted sum of losses that the student is trained on.

Each spec says, as plain data, what the plan must know: the signals it needs from the teacher, whether it gives a value
per row or per batch, whether it wants labels, and what it holds in memory.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from attar.recipe.base import Fraction, NonNegative, Rate, Spec

Form = Literal["row", "batch"]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Memory = Literal["rows_x_classes", "rows_x_hidden", "tokens_x_hidden"]


class ObjectiveSpec(Spec):
    """What all objectives share. `weight` multiplies the term in the sum."""

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    form: ClassVar[Form] = "row"
    memory: ClassVar[Memory] = "rows_x_classes"
    needs_labels: ClassVar[bool] = False

    weight: NonNegative = Field(default=1.0, description="Factor of this term in the sum.")


class ResponseSpec(ObjectiveSpec):
    """What objectives on logits share; the reduction tempers both sides (the KL family times its square,
    total_variation times itself).
    """

    temperature: Rate = Field(default=1.0, description="Logits of both sides are divided by this.")
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
    alpha: Share = Field(default=0.1, description="The teacher's share of the mixture; 0 is forward_kl.")


class SkewReverseKLSpec(DistributionSpec):
    """KL(student || mixture of both), bounded. DistiLLM, 2024."""

    kind: Literal["skew_reverse_kl"]
    alpha: Share = Field(default=0.1, description="The student's share of the mixture; 0 is reverse_kl.")


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


class LogitMSESpec(ResponseSpec):
    """Squared distance of logits without their row mean; for regression the plain squared distance."""

    kind: Literal["logit_mse"]


class HiddenSpec(ObjectiveSpec):
    """Distance of hidden states, through a learned projector where the widths differ."""

    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    form: ClassVar[Form] = "row"
    memory: ClassVar[Memory] = "tokens_x_hidden"

    kind: Literal["hidden"]
    distance: Literal["cosine", "mse"] = Field(default="cosine", description="1 - cosine, or mean squared difference.")
    layers: Literal["last", "uniform"] | tuple[tuple[int, int], ...] = Field(
        default="last",
        description="Pairs [student layer, teacher layer] (0 is the embeddings' output), `last`, or `uniform`: every "
        "student layer with the evenly spaced teacher layer.",
    )
    pool: Literal["mean", "first", "none"] = Field(
        default="mean",
        description="One vector a row (mean over tokens or pixels, or the first token), or `none`: each token.",
    )
    across_families: bool = Field(
        default=False, description="Allow teacher and student of different architecture families."
    )


class HardLabelsSpec(ObjectiveSpec):
    """Cross-entropy with the data's labels (binary cross-entropy, or squared error, by the task's `problem`)."""

    signals: ClassVar[frozenset[str]] = frozenset()
    needs_labels: ClassVar[bool] = True

    kind: Literal["hard_labels"]
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0, description="Share spread over all labels."
    )


class PythonSpec(ObjectiveSpec):
    """The record of a function handed over to `attar.distill_models`; it cannot be written by hand."""

    kind: Literal["python"]
    name: str = Field(description="The function's name, or the one given to it.")
    code: str = Field(description="Hash of its code and of what it reads.")
    temperature: Rate = Field(default=1.0, description="Logits of both sides are divided by this.")
    temperature_power: int = Field(default=2, description="The term is multiplied by this power of the temperature.")


OnDistributions = (
    ForwardKLSpec
    | ReverseKLSpec
    | JSDSpec
    | SkewKLSpec
    | SkewReverseKLSpec
    | AdaptiveKLSpec
    | ToDiSpec
    | AlphaBetaSpec
    | TotalVariationSpec
)
"""Every `DistributionSpec`, so that a match over them is known to be whole."""
_Written = OnDistributions | LogitMSESpec | HiddenSpec | HardLabelsSpec

AnyObjectiveSpec = Annotated[_Written, Field(discriminator="kind")]
"""What a recipe can ask for by itself."""

RecordedSpec = Annotated[_Written | PythonSpec, Field(discriminator="kind")]
"""What a recipe can hold: functions of one's own too, as a record."""
