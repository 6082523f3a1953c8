"""`objectives`: the weighted sum of losses that the student is trained on.

Each spec says, as plain data, what the plan must know: the signals it needs from the teacher, whether it gives a value
per row or per batch, whether it wants labels, and what it holds in memory.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from attar.recipe.base import Fraction, NonNegative, Rate, Spec

Form = Literal["row", "batch"]
Memory = Literal["rows_x_classes", "rows_x_hidden", "tokens_x_hidden"]


class ObjectiveSpec(Spec):
    """What all objectives share. `weight` multiplies the term in the sum."""

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    form: ClassVar[Form] = "row"
    memory: ClassVar[Memory] = "rows_x_classes"
    needs_labels: ClassVar[bool] = False

    weight: NonNegative = Field(default=1.0, description="Factor of this term in the sum.")


class ResponseSpec(ObjectiveSpec):
    """What objectives on logits share; the reduction tempers both sides (the KL family times its square)."""

    temperature: Rate = Field(default=1.0, description="Logits of both sides are divided by this.")
    standardise: bool = Field(default=False, description="Z-score each row of logits first (arXiv:2403.01427).")


class ForwardKLSpec(ResponseSpec):
    """KL(teacher || student): mode-covering. Hinton et al. 2015."""

    kind: Literal["forward_kl"]


class ReverseKLSpec(ResponseSpec):
    """KL(student || teacher): mode-seeking. MiniLLM, 2023."""

    kind: Literal["reverse_kl"]


class JSDSpec(ResponseSpec):
    """Generalised Jensen-Shannon divergence. GKD, 2023."""

    kind: Literal["jsd"]
    beta: Fraction = Field(
        default=0.5, description="The teacher's share of the mixture; 0 is forward_kl, 1 is reverse_kl."
    )


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
    kl_family: bool = Field(default=True, description="Whether the term is multiplied by the temperature's square.")


AnyObjectiveSpec = Annotated[
    ForwardKLSpec | ReverseKLSpec | JSDSpec | LogitMSESpec | HiddenSpec | HardLabelsSpec, Field(discriminator="kind")
]
"""What a recipe can ask for by itself."""

RecordedSpec = Annotated[
    ForwardKLSpec | ReverseKLSpec | JSDSpec | LogitMSESpec | HiddenSpec | HardLabelsSpec | PythonSpec,
    Field(discriminator="kind"),
]
"""What a recipe can hold: functions of one's own too, as a record."""
