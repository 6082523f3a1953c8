"""Objectives on what a model holds inside: hidden states, feature maps and self-attention, one value a row.

Distances are pure functions; what has to be learned for them (`ReviewFusion`, `MaskedGeneration`, a 1 x 1 convolution)
turns the student's side into something like the teacher's first.
"""

from attar.objectives.feature.attention import attention_relations
from attar.objectives.feature.hidden import cosine_distance, mse_distance
from attar.objectives.feature.maps import at_one_size, attention_transfer, channel_wise, fitnet
from attar.objectives.feature.masked import MaskedGeneration
from attar.objectives.feature.review import ReviewFusion, hierarchical_context

__all__ = [
    "MaskedGeneration",
    "ReviewFusion",
    "at_one_size",
    "attention_relations",
    "attention_transfer",
    "channel_wise",
    "cosine_distance",
    "fitnet",
    "hierarchical_context",
    "mse_distance",
]
