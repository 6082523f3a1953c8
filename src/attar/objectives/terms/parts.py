"""From a spec to its part: every objective that compares what models hold inside.

One `match`, no registry: a new kind does not type-check until it stands here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

from attar.errors import PlanError
from attar.objectives.terms.attention import AttentionTerm
from attar.objectives.terms.hidden import HiddenTerm
from attar.objectives.terms.layers import layer_pairs
from attar.objectives.terms.maps import MapTerm, ReviewTerm
from attar.objectives.terms.part import Pair, Part
from attar.objectives.terms.relations import RelationTerm
from attar.recipe.objectives import (
    AttentionRelationsSpec,
    AttentionTransferSpec,
    ChannelWiseSpec,
    CKASpec,
    CRDSpec,
    FitNetSpec,
    HiddenSpec,
    MapSpec,
    MaskedGenerationSpec,
    OnLayers,
    ReviewKDSpec,
    RKDAngleSpec,
    RKDDistanceSpec,
    SimilarityPreservingSpec,
)
from attar.signals import Inside, Pool

NO_PAIRS: Mapping[Pool, Sequence[Pair]] = {}


def make_part(
    name: str,
    spec: OnLayers,
    student: Inside,
    teacher: Inside,
    *,
    seed: int,
    place: str,
    chosen: Mapping[Pool, Sequence[Pair]] = NO_PAIRS,
) -> Part:
    """One spec as a part called `name`. Raises PlanError, which starts with `place`, where the models don't have it.

    `chosen`: the pairs of `layers: cka`, by what was pooled (see `pool_of`).
    """
    pairs = _pairs(spec, student, teacher, place, chosen)
    match spec:
        case HiddenSpec():
            return HiddenTerm(name, spec, pairs, student, teacher, seed)
        case FitNetSpec() | AttentionTransferSpec() | ChannelWiseSpec() | MaskedGenerationSpec():
            return MapTerm(name, spec, pairs, student, teacher, seed)
        case ReviewKDSpec():
            return ReviewTerm(name, spec, pairs, student, teacher, seed)
        case AttentionRelationsSpec():
            return AttentionTerm(name, spec, pairs, student, teacher, place=place)
        case RKDDistanceSpec() | RKDAngleSpec() | SimilarityPreservingSpec() | CKASpec() | CRDSpec():
            return RelationTerm(name, spec, pairs, student, teacher, seed)
        case _:
            assert_never(spec)


def pool_of(spec: OnLayers) -> Pool:
    """How states are pooled where `layers: cka` compares layers for this spec: its own way, or else the mean."""
    return spec.view if spec.view in ("mean", "first") else "mean"


def _pairs(
    spec: OnLayers, student: Inside, teacher: Inside, place: str, chosen: Mapping[Pool, Sequence[Pair]]
) -> tuple[Pair, ...]:
    by_cka = chosen.get(pool_of(spec))
    if spec.view == "attention":
        sides = (("student", student), ("teacher", teacher))
        problems = [f"{place}.kind: the {whose}: {one.no_attention}" for whose, one in sides if not one.attention]
        if spec.layers == "cka":
            problems += [
                f"{place}.layers: `cka` takes attention layers for those of hidden states, but the {whose} has "
                f"{one.attention_layers} of the one and {one.layers} of the other. Name the pairs."
                for whose, one in sides
                if one.attention and one.attention_layers != one.layers
            ]
        if problems:
            raise PlanError(problems)
        last = {"student": student.attention_layers, "teacher": teacher.attention_layers}
        return layer_pairs(spec.layers, **last, first=1, chosen=by_cka, place=f"{place}.layers")
    pairs = layer_pairs(
        spec.layers, student=student.layers, teacher=teacher.layers, chosen=by_cka, place=f"{place}.layers"
    )
    _shown(spec, pairs, student, teacher, place)
    return pairs


def _shown(spec: OnLayers, pairs: Sequence[Pair], student: Inside, teacher: Inside, place: str) -> None:
    """Raise PlanError where a model does not show what is compared: hidden states at all, or maps."""
    sides = (("student", student), ("teacher", teacher))
    problems = [
        f"{place}.kind: {spec.kind} compares hidden states, but the {whose} shows none."
        for whose, one in sides
        if not one.widths
    ]
    if spec.view == "map" and not problems:
        flat = {
            f"hidden state {pair[side]} of the {whose}"
            for side, (whose, one) in enumerate(sides)
            for pair in pairs
            if pair[side] not in one.maps
        }
        field, instead = ("kind", "hidden or attention_relations") if isinstance(spec, MapSpec) else ("pool", "mean")
        problems = [
            f"{place}.{field}: {what} is no feature map: only convolutional models have maps. Use {instead}."
            for what in sorted(flat)
        ]
    if problems:
        raise PlanError(problems)
