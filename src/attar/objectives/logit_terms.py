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
from attar.objectives.response import forward_kl, jsd, logit_mse, reverse_kl
from attar.objectives.supervised import binary_cross_entropy, cross_entropy, squared_error
from attar.recipe.objectives import (
    ForwardKLSpec,
    HardLabelsSpec,
    JSDSpec,
    LogitMSESpec,
    ResponseSpec,
    ReverseKLSpec,
)

Problem = Literal["single_label", "multi_label", "regression"]
LogitSpec = ForwardKLSpec | ReverseKLSpec | JSDSpec | LogitMSESpec | HardLabelsSpec | OwnObjective


@dataclass(frozen=True)
class LogitTerm:
    """A term that reads the student's logits, and what it compares them with."""

    row: RowTerm
    reads: Literal["teacher", "labels"]


def logit_term(
    name: str,
    spec: LogitSpec,
    problem: Problem,
    *,
    place: str,
) -> LogitTerm:
    """One spec as a term called `name`. Raises PlanError, which starts with `place`, if it means nothing here."""
    _require_meaning(spec, problem, place)
    match spec:
        case ForwardKLSpec():
            return _response(name, forward_kl, spec)
        case ReverseKLSpec():
            return _response(name, reverse_kl, spec)
        case JSDSpec():
            return _response(name, partial(jsd, beta=spec.beta), spec)
        case LogitMSESpec():
            return _response(name, partial(logit_mse, centre=problem != "regression"), spec, kl_family=False)
        case HardLabelsSpec():
            return LogitTerm(RowTerm(name, _label_function(problem, spec.label_smoothing), spec.weight), "labels")
        case OwnObjective():
            row = RowTerm(name, spec.fn, spec.weight, spec.temperature, kl_family=spec.kl_family)
            return LogitTerm(row, "teacher")
        case _:
            assert_never(spec)


def _response(name: str, function: RowFunction, spec: ResponseSpec, *, kl_family: bool = True) -> LogitTerm:
    row = RowTerm(name, function, spec.weight, spec.temperature, kl_family=kl_family, standardise=spec.standardise)
    return LogitTerm(row, "teacher")


def _require_meaning(spec: LogitSpec, problem: Problem, place: str) -> None:
    if problem == "regression" and isinstance(spec, ForwardKLSpec | ReverseKLSpec | JSDSpec):
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
