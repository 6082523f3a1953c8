"""From a spec to a row function: every objective on logits, by the task's problem.

One `match`, no registry: a new kind does not type-check until it stands here. Shape letters: N rows, C outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, assert_never

from torch import Tensor

from attar.errors import PlanError
from attar.objectives.own import OwnObjective
from attar.objectives.reduction import RowFunction, RowTerm
from attar.objectives.response import (
    adaptive_kl,
    alpha_beta,
    forward_kl,
    jsd,
    logit_mse,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    todi,
    total_variation,
)
from attar.objectives.supervised import binary_cross_entropy, cross_entropy, squared_error
from attar.recipe.objectives import (
    AdaptiveKLSpec,
    AlphaBetaSpec,
    DistributionSpec,
    ForwardKLSpec,
    HardLabelsSpec,
    JSDSpec,
    LogitMSESpec,
    OnDistributions,
    ResponseSpec,
    ReverseKLSpec,
    SkewKLSpec,
    SkewReverseKLSpec,
    ToDiSpec,
    TotalVariationSpec,
)

Problem = Literal["single_label", "multi_label", "regression"]
LogitSpec = OnDistributions | LogitMSESpec | HardLabelsSpec | OwnObjective


@dataclass(frozen=True)
class LogitTerm:
    """A term that reads the student's logits, and what it compares them with."""

    row: RowTerm
    reads: Literal["teacher", "labels"]


def logit_term(name: str, spec: LogitSpec, problem: Problem, *, place: str) -> LogitTerm:
    """One spec as a term called `name`. Raises PlanError, which starts with `place`, if it means nothing here."""
    _require_meaning(spec, problem, place)
    match spec:
        case HardLabelsSpec():
            return LogitTerm(RowTerm(name, _label_function(problem, spec.label_smoothing), spec.weight), "labels")
        case OwnObjective():
            row = RowTerm(name, spec.fn, spec.weight, spec.temperature, spec.temperature_power)
        case LogitMSESpec():
            function = partial(logit_mse, centre=problem != "regression")
            row = RowTerm(name, function, spec.weight, spec.temperature, 0, spec.standardise)
        case _:
            power = 1 if isinstance(spec, TotalVariationSpec) else 2
            row = RowTerm(name, _on_distributions(spec), spec.weight, spec.temperature, power, spec.standardise)
    return LogitTerm(row, "teacher")


def _on_distributions(spec: OnDistributions) -> RowFunction:
    match spec:
        case ForwardKLSpec():
            return forward_kl
        case ReverseKLSpec():
            return reverse_kl
        case JSDSpec():
            return partial(jsd, beta=spec.beta)
        case SkewKLSpec():
            return partial(skew_kl, alpha=spec.alpha)
        case SkewReverseKLSpec():
            return partial(skew_reverse_kl, alpha=spec.alpha)
        case AdaptiveKLSpec():
            return partial(adaptive_kl, head=spec.head)
        case ToDiSpec():
            return todi
        case AlphaBetaSpec():
            return partial(alpha_beta, alpha=spec.alpha, beta=spec.beta)
        case TotalVariationSpec():
            return total_variation
        case _:
            assert_never(spec)


def _require_meaning(spec: LogitSpec, problem: Problem, place: str) -> None:
    if problem == "regression" and isinstance(spec, DistributionSpec):
        raise PlanError(
            f"{place}.kind: {spec.kind} compares distributions, but a regression answers with one number. "
            "Use logit_mse, hidden or hard_labels."
        )
    if problem == "regression" and isinstance(spec, HardLabelsSpec) and spec.label_smoothing:
        raise PlanError(
            f"{place}.label_smoothing: {spec.label_smoothing} means nothing for a regression; it must be 0."
        )
    if problem != "single_label" and isinstance(spec, ResponseSpec) and spec.standardise:
        raise PlanError(
            f"{place}.standardise: a {problem} row has too few logits for a z-score. Remove it, or use single_label."
        )


def _label_function(problem: Problem, label_smoothing: float) -> RowFunction:
    match problem:
        case "single_label":
            return partial(cross_entropy, label_smoothing=label_smoothing)
        case "multi_label":
            return partial(_two_class_entropy, label_smoothing=label_smoothing)
        case "regression":
            return _number_error


def _two_class_entropy(rows: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    return binary_cross_entropy(rows[:, 0] - rows[:, 1], labels, label_smoothing=label_smoothing)


def _number_error(rows: Tensor, labels: Tensor) -> Tensor:
    return squared_error(rows[:, 0], labels)
