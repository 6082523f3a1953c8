"""`teacher.targets`: what a store keeps of a language model's answer to a token, and which objectives read it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from attar.recipe.base import Positive, Rate, Spec
from attar.recipe.objectives.base import TemperedSpec
from attar.recipe.objectives.feature import LayeredSpec
from attar.recipe.objectives.response import ForwardKLSpec, ResponseSpec
from attar.recipe.objectives.schedule import in_words
from attar.recipe.objectives.sparse import SampledKLSpec, SparseKLSpec
from attar.recipe.objectives.supervised import HardLabelsSpec


class FewSpec(Spec):
    """What all kinds share."""

    temperature: Rate = Field(
        default=1.0,
        description="The teacher's logits are divided by this before they are cut; objectives have the same.",
    )


class SampledTargetsSpec(FewSpec):
    """The likely tokens, and of the others some drawn at one weight: the whole divergence, without bias."""

    kind: Literal["sampled"]
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.02,
        description="Tokens that are likelier are kept, others drawn at this weight; lower: more tokens, less noise.",
    )


class TopKTargetsSpec(FewSpec):
    """The likeliest tokens, and the mass of all others."""

    kind: Literal["top_k"]
    k: Positive = Field(default=64, description="Tokens listed.")


TargetsSpec = Annotated[SampledTargetsSpec | TopKTargetsSpec, Field(discriminator="kind")]

SAMPLED = SampledTargetsSpec(kind="sampled")
"""What `signals: store` of a language model keeps where the recipe does not say."""
_READERS = {"sampled": "forward_kl, sampled_kl", "top_k": "sparse_kl"}
_LIVE = "a live teacher (teacher.kind: local, signals: live)"
_DRAWN_ANEW = ("samples", "proposal_temperature")


def unfit(spec: object, targets: TargetsSpec) -> tuple[str, str] | None:
    """Why an objective cannot be trained on stored targets: its field, and a sentence. None: it can."""
    if isinstance(spec, HardLabelsSpec):
        return None
    kind = getattr(spec, "kind", "python")
    if isinstance(spec, LayeredSpec):
        return "kind", (
            f'"{kind}" compares layers, but a language model\'s store holds what the teacher says of each token alone. '
            f"Allowed: {_READERS[targets.kind]}, hard_labels; or use {_LIVE}."
        )
    readers = ForwardKLSpec | SampledKLSpec if targets.kind == "sampled" else SparseKLSpec
    if not isinstance(spec, readers):
        other = "top_k" if targets.kind == "sampled" else "sampled"
        return "kind", (
            f'"{kind}" cannot be had from the tokens that are stored (kind: {targets.kind}). Allowed: '
            f"{_READERS[targets.kind]}, hard_labels; with targets of kind {other}: {_READERS[other]}; all of them with "
            f"{_LIVE}."
        )
    return _unfit_options(spec, targets)


def _unfit_options(spec: TemperedSpec, targets: TargetsSpec) -> tuple[str, str] | None:
    if isinstance(spec, ResponseSpec) and spec.standardise:
        return "standardise", f"a z-score needs all logits, and few are stored. Remove it, or use {_LIVE}."
    if spec.temperature != targets.temperature:
        return "temperature", (
            f"{in_words(spec.temperature)}, but the stored tokens were cut at {targets.temperature:g}, and cannot be "
            f"tempered again. Set it to {targets.temperature:g}, label again at this one "
            f"(teacher.targets.temperature), or use {_LIVE}."
        )
    if isinstance(spec, SparseKLSpec) and isinstance(targets, TopKTargetsSpec) and spec.k != targets.k:
        return (
            "k",
            f"{spec.k}, but {targets.k} tokens are stored. Set it to {targets.k}, or label again (teacher.targets.k).",
        )
    if isinstance(spec, SampledKLSpec):
        for name in _DRAWN_ANEW:
            if getattr(spec, name) != type(spec).model_fields[name].default:
                return name, "it draws anew in each step, but draws are stored. Remove it; see teacher.targets."
    return None
