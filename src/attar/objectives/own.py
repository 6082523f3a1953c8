"""Your own objective: a function of the student's and the teacher's logits, handed over in Python."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from attar.errors import PlanError
from attar.identity import hash_function
from attar.recipe.objectives import PythonSpec, TemperatureSchedule, WeightSchedule


@dataclass(frozen=True)
class OwnObjective:
    """A row function and what the reduction applies to it; `attar.testing.check_objective(fn)` checks it.

    `fn(student_logits [n, V], teacher_logits [n, V]) -> [n]`, unreduced; n may be 0. It sees kept rows only, in
    float32, divided by `temperature`, the teacher's without gradient. `multi_label`: each label is a row (z / 2, -z /
    2). Where its signature has them it is also given, by keyword: `labels` [n] (int64, or float32 for `multi_label` and
    regression), and then sees labelled rows only; `progress`, the share of the training that is behind, in 0..1.

    `weight` >= 0 multiplies the term in the sum; it and `temperature` may be schedules of `attar.recipe.objectives`.
    `temperature_power`: multiply by this power of it, so that the gradient keeps its size: 2 for KL and its like, 1 for
    distances of probabilities, 0 not at all. `name` is the term's name in logs; None takes the function's. Raises
    PlanError where weight or temperature is out of range.
    """

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    form: ClassVar[str] = "row"
    memory: ClassVar[str] = "rows_x_classes"

    fn: Callable[..., Tensor]
    weight: float | WeightSchedule = 1.0
    temperature: float | TemperatureSchedule = 1.0
    name: str | None = None
    temperature_power: int = 2

    def __post_init__(self) -> None:
        problems: list[str] = []
        if isinstance(self.weight, int | float) and not (math.isfinite(self.weight) and self.weight >= 0):
            problems.append(f"objective {self.kind}: weight is {self.weight}; it must be a number >= 0.")
        if isinstance(self.temperature, int | float) and not (math.isfinite(self.temperature) and self.temperature > 0):
            problems.append(f"objective {self.kind}: temperature is {self.temperature}; it must be a number > 0.")
        if problems:
            raise PlanError(problems)

    @property
    def kind(self) -> str:
        """What the term is called, like a spec's `kind`."""
        return self.name or getattr(self.fn, "__name__", "own")

    @property
    def needs_labels(self) -> bool:
        """Whether `fn` takes `labels`."""
        return "labels" in keywords(self.fn)

    @property
    def needs_progress(self) -> bool:
        """Whether `fn` takes `progress`."""
        return "progress" in keywords(self.fn)

    def record(self) -> PythonSpec:
        """What a recipe keeps of it: the same for the same code in every process."""
        return PythonSpec(
            kind="python",
            name=self.kind,
            code=hash_function(self.fn),
            weight=float(self.weight) if isinstance(self.weight, int | float) else self.weight,
            temperature=float(self.temperature) if isinstance(self.temperature, int | float) else self.temperature,
            temperature_power=self.temperature_power,
            labels=self.needs_labels,
        )


def keywords(fn: Callable[..., Any]) -> frozenset[str]:
    """Names besides both sides' that `fn` can be given by keyword, and that no `functools.partial` has given it.

    None where it does not tell, as functions written in C.
    """
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except ValueError:
        return frozenset()
    bound = fn.keywords if isinstance(fn, partial) else {}
    named = [one.name for one in parameters[2:] if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    return frozenset(named) - bound.keys()
