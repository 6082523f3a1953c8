"""The rows of the leaderboard, as data: what each one trains on, as a function of its weight.

A row adds one objective to the hard labels: `weight` of it, and 1 - `weight` of the labels. Every row has the same
number of settings to try (`settings`). Divergences of the answers are taken as they are; what comes in units of its own
is multiplied by the power of ten that brings its value before training nearest to that of the labels (`scales`). To
add a row, add a line to ROWS; an objective that no row can hold stands in NO_ROW with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from attar.recipe.objectives import AnyObjectiveSpec

Sections = list[dict[str, Any]]
"""Objectives as a recipe writes them."""

WEIGHTS = (0.5, 0.9)
CONTROL, REFERENCE = "no teacher", "forward_kl"
NO_MAPS = {"banking77": "Its models have no feature maps."}
_SPECS = TypeAdapter[list[AnyObjectiveSpec]](list[AnyObjectiveSpec])


class Setting(NamedTuple):
    """What is searched on validation."""

    learning_rate: float
    weight: float | None
    """None where the row has none."""


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard."""

    name: str
    sections: Callable[[float], Sections]
    """The objectives at a weight."""
    weights: tuple[float, ...] | None = WEIGHTS
    """None: there is nothing to weigh, and the learning rates are twice as dense instead."""
    note: str = ""
    scales: Mapping[str, float] = field(default_factory=dict[str, float])
    """By case: factor of all but the labels; 1 where a case is not named."""
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why it does not apply, by case."""

    def specs(self, weight: float | None, case: str) -> list[AnyObjectiveSpec]:
        """The objectives at a weight, checked. Raises pydantic's ValidationError."""
        return _SPECS.validate_python(self.at(weight, case))

    def at(self, weight: float | None, case: str) -> Sections:
        """The same as a recipe writes them."""
        scale = self.scales.get(case, 1.0)
        return [
            section if section["kind"] == "hard_labels" else {**section, "weight": scale * section["weight"]}
            for section in self.sections(0.0 if weight is None else weight)
        ]

    def settings(self, rates: Sequence[float]) -> list[Setting]:
        """All settings to try, as many for every row."""
        if self.weights is not None:
            return [Setting(*pair) for pair in product(rates, self.weights)]
        ratio = rates[1] / rates[0] if len(rates) > 1 else 2.0
        return [Setting(rate * ratio ** (i / len(WEIGHTS)), None) for rate in rates for i in range(len(WEIGHTS))]


def _with_labels(*sections: dict[str, Any]) -> Callable[[float], Sections]:
    """These objectives at the weight, and the labels at the rest."""

    def at(weight: float) -> Sections:
        labels = {"kind": "hard_labels", "weight": round(1 - weight, 6)}
        return [*({**section, "weight": weight} for section in sections), labels]

    return at


def _on(kind: str, **options: Any) -> Callable[[float], Sections]:
    return _with_labels({"kind": kind, **options})


def _tempered(kind: str, **options: Any) -> Callable[[float], Sections]:
    """At temperature 2, as in the recipes."""
    return _on(kind, temperature=2.0, **options)


def _scales(digits: float, banking77: float = 1.0) -> dict[str, float]:
    return {"digits": digits, "banking77": banking77}


def _labels(**options: Any) -> Sections:
    return [{"kind": "hard_labels", **options}]


ROWS: tuple[Row, ...] = (
    Row(CONTROL, lambda _: _labels(), weights=None, note="the labels alone"),
    Row("label smoothing", lambda w: _labels(label_smoothing=w), (0.1, 0.2), "the weight is the share that is spread"),
    Row(REFERENCE, _tempered("forward_kl")),
    Row("forward_kl (T = 1)", _on("forward_kl")),
    Row("forward_kl (standardised)", _tempered("forward_kl", standardise=True)),
    Row("reverse_kl", _tempered("reverse_kl")),
    Row("jsd", _tempered("jsd")),
    Row("skew_kl", _tempered("skew_kl")),
    Row("skew_reverse_kl", _tempered("skew_reverse_kl")),
    Row("adaptive_kl", _tempered("adaptive_kl")),
    Row("todi", _tempered("todi")),
    Row("alpha_beta", _tempered("alpha_beta")),
    Row("total_variation", _tempered("total_variation")),
    Row("taid", _tempered("taid")),
    Row("dkd", _tempered("dkd")),
    Row("ofa (gamma = 1.5)", _on("ofa", gamma=1.5)),
    Row("dist", _tempered("dist")),
    Row("sparse_kl (K = 4)", _tempered("sparse_kl", k=4)),
    Row("sparse_reverse_kl (K = 4)", _tempered("sparse_reverse_kl", k=4)),
    Row("sampled_kl (S = 4)", _tempered("sampled_kl", samples=4)),
    Row("logit_mse", _on("logit_mse"), scales=_scales(0.01, 0.01)),
    Row("hidden (cosine)", _on("hidden"), scales=_scales(1, 10)),
    Row("hidden (mse)", _on("hidden", distance="mse"), scales=_scales(1, 10)),
    Row("fitnet", _on("fitnet"), left_out=NO_MAPS),
    Row("attention_transfer", _on("attention_transfer"), scales=_scales(100), left_out=NO_MAPS),
    Row("channel_wise", _on("channel_wise"), scales=_scales(10), left_out=NO_MAPS),
    Row("masked_generation", _on("masked_generation"), left_out=NO_MAPS),
    Row("review_kd", _on("review_kd"), left_out=NO_MAPS),
    Row("rkd_distance", _on("rkd_distance"), scales=_scales(10, 1000)),
    Row("rkd_angle", _on("rkd_angle"), scales=_scales(10, 1000)),
    Row("similarity_preserving", _on("similarity_preserving"), scales=_scales(100, 1000)),
    Row("cka", _on("cka"), scales=_scales(1, 10)),
    Row("crd", _on("crd"), scales=_scales(0.1, 1)),
    Row(
        "forward_kl + hidden",
        _with_labels({"kind": "forward_kl", "temperature": 2.0}, {"kind": "hidden"}),
        note="as in the recipes",
    ),
)

NO_ROW: Mapping[str, str] = {
    "attention_relations": "Digits' models have no attention. On banking77 it would ask the teacher in every step, "
    "which takes 12 times as long.",
    **dict.fromkeys(
        ("uld", "aligned", "projected_kl", "span_kl"),
        "It is for language models whose tokenizers differ; here both sides have one.",
    ),
    "contrastive_skew": "No student here writes text: without it this is skew_kl.",
}
"""Kinds of objectives that no case here can train on, and why."""


def rows_of(case: str) -> list[Row]:
    """The rows that apply to a case, in order."""
    return [row for row in ROWS if case not in row.left_out]


def file_name(row: str) -> str:
    """A row's name as a part of a path."""
    return re.sub(r"\W+", "_", row).strip("_")


def kinds() -> set[str]:
    """Every kind of objective that some row holds."""
    return {section["kind"] for row in ROWS for section in row.sections(0.5)}
