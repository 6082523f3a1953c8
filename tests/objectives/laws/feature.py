"""Objectives on hidden states, feature maps and self-attention. Maps and tokens of a row are cut from a flat one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from attar.objectives.feature import (
    MaskedGeneration,
    attention_relations,
    attention_transfer,
    channel_wise,
    cosine_distance,
    fitnet,
    hierarchical_context,
    mse_distance,
)
from objectives.laws.entry import NO_TEMPERATURE, Entry

NOT_LOGITS = "hidden states are vectors: their origin means something"
NO_INFINITY = "hidden states are finite"
FEATURE = {"shift_invariant": NOT_LOGITS, "infinite": NO_INFINITY, "temperature_power": NO_TEMPERATURE}
NO_LONE_PIXEL = {"infinite": "the law drops an output, but of two channels no lone pixel can go"}


def of_shape(function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda student, teacher: function(student.reshape(-1, *shape), teacher.reshape(-1, *shape))


def generated(student: Tensor, teacher: Tensor) -> Tensor:
    """`masked_generation` as its term evaluates it, with what it learns held still and nothing masked."""
    return fitnet(GENERATION(student), teacher)


GENERATION = MaskedGeneration(2, 2, seed=0, name="masked_generation").eval().requires_grad_(False)


FEATURES = [
    Entry("hidden", "cosine_distance", cosine_distance, FEATURE),
    Entry("hidden", "mse_distance", mse_distance, FEATURE),
    Entry("fitnet", "fitnet", of_shape(fitnet, 2, 2, 3), FEATURE, width=12),
    *[
        Entry(
            "attention_transfer",
            f"attention_transfer power {power}",
            of_shape(partial(attention_transfer, power=power), 2, 2, 3),
            FEATURE,
            width=12,
        )
        for power in (1.0, 2.0, 3.0)
    ],
    Entry("channel_wise", "channel_wise of one channel", lambda s, t: channel_wise(s[:, None, None], t[:, None, None])),
    Entry("channel_wise", "channel_wise", of_shape(channel_wise, 2, 2, 3), NO_LONE_PIXEL, width=12),
    Entry("review_kd", "hierarchical_context", of_shape(hierarchical_context, 2, 3, 3), FEATURE, width=18),
    Entry(
        "masked_generation",
        "masked_generation",
        of_shape(generated, 2, 2, 3),
        FEATURE | {"divergence": "it is 0 where what is generated is the teacher's map, not where the student's is"},
        width=12,
    ),
    Entry(
        "attention_relations",
        "attention_relations",
        of_shape(partial(attention_relations, heads=2), 3, 4),
        FEATURE,
        width=12,
    ),
]
