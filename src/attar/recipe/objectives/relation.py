"""Objectives on how the rows of a batch lie to one another."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from attar.recipe.base import Positive, Rate
from attar.recipe.objectives.base import Form, Memory
from attar.recipe.objectives.feature import LayeredSpec, OnFeatures, View


class RelationSpec(LayeredSpec):
    """What these objectives share. They see the local micro-batch alone, one vector a row. Only how rows lie to one
    another is compared, so neither widths nor architecture families need agree.
    """

    signals: ClassVar[frozenset[str]] = frozenset({"hidden"})
    form: ClassVar[Form] = "batch"
    memory: ClassVar[Memory] = "rows_squared"

    pool: Literal["mean", "first", "map"] = Field(
        default="mean",
        description="One vector a row: mean over tokens or pixels, the first token, or `map`: all of a feature map.",
    )

    @property
    def view(self) -> View:
        """As `pool` says."""
        return self.pool


class RKDDistanceSpec(RelationSpec):
    """Distances between rows, each side's in units of their mean. RKD, 2019."""

    kind: Literal["rkd_distance"]


class RKDAngleSpec(RelationSpec):
    """Angles between rows. RKD, 2019."""

    memory: ClassVar[Memory] = "rows_cubed"

    kind: Literal["rkd_angle"]


class SimilarityPreservingSpec(RelationSpec):
    """Which rows each row resembles; the value falls as 1 / rows of the micro-batch. Tung & Mori, 2019."""

    kind: Literal["similarity_preserving"]


class CKASpec(RelationSpec):
    """1 - linear CKA: whether both sides find the same rows alike. Kornblith et al., 2019."""

    kind: Literal["cka"]


class CRDSpec(RelationSpec):
    """A row's two embeddings find each other among those of other rows; one learned head a side. CRD, 2019."""

    kind: Literal["crd"]
    temperature: Rate = Field(default=0.07, description="Cosines of embeddings are divided by this.")
    width: Positive = Field(default=128, description="Width of the embeddings.")
    negatives: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Embeddings of earlier rows that are kept as negatives beside the batch's own."
    )


OnRelations = RKDDistanceSpec | RKDAngleSpec | SimilarityPreservingSpec | CKASpec | CRDSpec
"""Every `RelationSpec`, so that a match over them is known to be whole."""
OnLayers = OnFeatures | OnRelations
"""Every `LayeredSpec`."""
