"""Objectives on what models hold inside: hidden states, feature maps and self-attention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from attar.recipe.base import Positive, Rate
from attar.recipe.objectives.base import BelowOne, Memory, ObjectiveSpec

View = Literal["mean", "first", "none", "map", "attention"]
"""What of a layer is compared: its pooled state, its tokens' states, its feature map, its attention."""
Layers = Literal["last", "uniform", "cka"] | tuple[tuple[int, int], ...]
_LAYERS = (
    "Pairs [student layer, teacher layer] (0 is the embeddings' output), `last`, `uniform`: every student layer with "
    "the evenly spaced teacher layer, or `cka`: with the one most like it on training rows, before training."
)


def evenly_spaced(student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """What `uniform` means: student layer i of 1..L_s with teacher layer i L_t / L_s, rounded half up, at least 1."""
    return tuple((at, max(1, (2 * at * teacher + student) // (2 * student))) for at in range(1, student + 1))


def is_layer(layer: int, last: int, *, first: int) -> bool:
    """Whether `layer` is one of `first`..`last`, or counts from the end: -1 is the last."""
    return first <= layer <= last or first - last - 1 <= layer <= -1


class LayeredSpec(ObjectiveSpec, ABC):
    """What objectives share that compare layers; of several pairs the mean counts."""

    layers: Layers = Field(default="last", description=_LAYERS)

    @property
    @abstractmethod
    def view(self) -> View:
        """What of a layer is compared."""


class FeatureSpec(LayeredSpec):
    """What objectives share that ask for the same features, which other families do not have."""

    across_families: bool = Field(
        default=False, description="Allow teacher and student of different architecture families."
    )


class HiddenSpec(FeatureSpec):
    """Distance of hidden states, through a learned projector where the widths differ."""

    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    memory: ClassVar[Memory] = "tokens_x_hidden"

    kind: Literal["hidden"]
    distance: Literal["cosine", "mse"] = Field(default="cosine", description="1 - cosine, or mean squared difference.")
    pool: Literal["mean", "first", "none"] = Field(
        default="mean",
        description="One vector a row (mean over tokens or pixels, or the first token), or `none`: each token.",
    )

    @property
    def view(self) -> View:
        """As `pool` says."""
        return self.pool


class MapSpec(FeatureSpec):
    """What objectives on feature maps share: images, models that have maps, and a teacher that is asked live."""

    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    memory: ClassVar[Memory] = "rows_x_maps"

    layers: Layers = Field(default="uniform", description=_LAYERS)

    @property
    def view(self) -> View:
        """Maps."""
        return "map"


class FitNetSpec(MapSpec):
    """Mean squared difference of feature maps, through a 1 x 1 convolution where channels differ. FitNets, 2014."""

    kind: Literal["fitnet"]


class AttentionTransferSpec(MapSpec):
    """Where maps look: distance of the directions of their energy, pixel by pixel. Zagoruyko & Komodakis, 2016."""

    kind: Literal["attention_transfer"]
    power: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = Field(
        default=2.0, description="Power of the features before channels are averaged."
    )


class ChannelWiseSpec(MapSpec):
    """KL of each channel's distribution over pixels, through a 1 x 1 convolution where channels differ. CWD, 2020."""

    kind: Literal["channel_wise"]
    temperature: Rate = Field(default=4.0, description="Maps of both sides are divided by this.")


class MaskedGenerationSpec(MapSpec):
    """The teacher's map from the student's, of which parts were taken out. MGD, 2022."""

    kind: Literal["masked_generation"]
    masked: BelowOne = Field(default=0.15, description="Share that is taken out, anew for each row and step.")
    of: Literal["channels", "pixels"] = Field(
        default="channels", description="What is taken out: channels, or pixels (for dense tasks, masked 0.65)."
    )


class ReviewKDSpec(MapSpec):
    """Each of the teacher's maps from the student's own and all deeper ones. ReviewKD, 2021."""

    kind: Literal["review_kd"]
    width: Positive = Field(default=64, description="Channels in which the student's maps are fused.")


class AttentionRelationsSpec(FeatureSpec):
    """KL of how tokens resemble each other in queries, keys and values; widths need not agree. MiniLM v2, 2020."""

    signals: ClassVar[frozenset[str]] = frozenset({"attention"})
    memory: ClassVar[Memory] = "rows_x_tokens_squared"

    kind: Literal["attention_relations"]
    layers: Layers = Field(
        default="last", description="As for `hidden`, but counted from 1: layer 1 is the first that has attention."
    )
    heads: Positive | None = Field(
        default=None,
        description="Relation heads, which divide all widths; null: as many as leave a head 8 numbers, at most 48.",
    )
    of: tuple[Literal["query", "key", "value"], ...] = Field(
        default=("query", "key", "value"), min_length=1, description="Which vectors are compared; their sum counts."
    )

    @field_validator("of")
    @classmethod
    def _each_once(cls, of: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(of)) < len(of):
            raise ValueError("each of `query`, `key` and `value` may stand once")
        return of

    @property
    def view(self) -> View:
        """Attention."""
        return "attention"


OnFeatures = (
    HiddenSpec
    | FitNetSpec
    | AttentionTransferSpec
    | ChannelWiseSpec
    | MaskedGenerationSpec
    | ReviewKDSpec
    | AttentionRelationsSpec
)
"""Every `FeatureSpec`, so that a match over them is known to be whole."""
