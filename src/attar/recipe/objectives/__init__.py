"""`objectives`: the weighted sum of losses that the student is trained on, one family a file.

Each spec says, as plain data, what the plan must know: the signals it needs from the teacher, whether it gives a value
per row or per batch, whether it wants labels, and what it holds in memory.
"""

from typing import Annotated

from pydantic import Field

from attar.recipe.objectives.base import ObjectiveSpec, TemperedSpec
from attar.recipe.objectives.crosstoken import (
    CROSS_KINDS,
    AlignedSpec,
    CrossTokenSpec,
    OnTwoTokenizers,
    ProjectedKLSpec,
    SpanKLSpec,
    ULDSpec,
)
from attar.recipe.objectives.feature import (
    AttentionRelationsSpec,
    AttentionTransferSpec,
    ChannelWiseSpec,
    FeatureSpec,
    FitNetSpec,
    HiddenSpec,
    LayeredSpec,
    MapSpec,
    MaskedGenerationSpec,
    OnFeatures,
    ReviewKDSpec,
)
from attar.recipe.objectives.own import PythonSpec
from attar.recipe.objectives.relation import (
    CKASpec,
    CRDSpec,
    OnLayers,
    OnRelations,
    RelationSpec,
    RKDAngleSpec,
    RKDDistanceSpec,
    SimilarityPreservingSpec,
)
from attar.recipe.objectives.response import (
    AdaptiveKLSpec,
    AlphaBetaSpec,
    ContrastiveSkewSpec,
    DistributionSpec,
    DISTSpec,
    DKDSpec,
    ForwardKLSpec,
    JSDSpec,
    LabelledSpec,
    LogitMSESpec,
    OFASpec,
    OnDistributions,
    ResponseSpec,
    ReverseKLSpec,
    SkewKLSpec,
    SkewReverseKLSpec,
    TAIDSpec,
    ToDiSpec,
    TotalVariationSpec,
)
from attar.recipe.objectives.schedule import ScheduleSpec, TemperatureSchedule, WeightSchedule, in_words, largest
from attar.recipe.objectives.sparse import OnLists, SampledKLSpec, SparseKLSpec, SparseReverseKLSpec, SparseSpec
from attar.recipe.objectives.supervised import HardLabelsSpec

_Written = OnDistributions | OnLists | OnTwoTokenizers | LogitMSESpec | OnLayers | HardLabelsSpec

AnyObjectiveSpec = Annotated[_Written, Field(discriminator="kind")]
"""What a recipe can ask for by itself."""

RecordedSpec = Annotated[_Written | PythonSpec, Field(discriminator="kind")]
"""What a recipe can hold: functions of one's own too, as a record."""

__all__ = [
    "CROSS_KINDS",
    "AdaptiveKLSpec",
    "AlignedSpec",
    "AlphaBetaSpec",
    "AnyObjectiveSpec",
    "AttentionRelationsSpec",
    "AttentionTransferSpec",
    "CKASpec",
    "CRDSpec",
    "ChannelWiseSpec",
    "ContrastiveSkewSpec",
    "CrossTokenSpec",
    "DISTSpec",
    "DKDSpec",
    "DistributionSpec",
    "FeatureSpec",
    "FitNetSpec",
    "ForwardKLSpec",
    "HardLabelsSpec",
    "HiddenSpec",
    "JSDSpec",
    "LabelledSpec",
    "LayeredSpec",
    "LogitMSESpec",
    "MapSpec",
    "MaskedGenerationSpec",
    "OFASpec",
    "ObjectiveSpec",
    "OnDistributions",
    "OnFeatures",
    "OnLayers",
    "OnLists",
    "OnRelations",
    "OnTwoTokenizers",
    "ProjectedKLSpec",
    "PythonSpec",
    "RKDAngleSpec",
    "RKDDistanceSpec",
    "RecordedSpec",
    "RelationSpec",
    "ResponseSpec",
    "ReverseKLSpec",
    "ReviewKDSpec",
    "SampledKLSpec",
    "ScheduleSpec",
    "SimilarityPreservingSpec",
    "SkewKLSpec",
    "SkewReverseKLSpec",
    "SpanKLSpec",
    "SparseKLSpec",
    "SparseReverseKLSpec",
    "SparseSpec",
    "TAIDSpec",
    "TemperatureSchedule",
    "TemperedSpec",
    "ToDiSpec",
    "TotalVariationSpec",
    "ULDSpec",
    "WeightSchedule",
    "in_words",
    "largest",
]
