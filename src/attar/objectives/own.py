"""Your own objective: a function of the student's and the teacher's logits, handed over in Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attar.errors import PlanError
from attar.identity import hash_function
from attar.recipe.objectives import PythonSpec


@dataclass(frozen=True)
class OwnObjective:
    """A row function and what the reduction applies to it; `attar.testing.check_objective(fn)` checks it.

    `fn(student_logits [n, V], teacher_logits [n, V]) -> [n]`, unreduced; n may be 0. It sees kept rows only, in
    float32, divided by `temperature`, the teacher's without gradient. `multi_label`: each label is a row (z / 2, -z /
    2). `weight` >= 0 multiplies the term in the sum. `temperature_power`: multiply by this power of it, so that
    the gradient keeps its size: 2 for KL and its like, 1 for distances of probabilities, 0 not at all. `name` is the
    term's name in logs; None takes the function's. Raises PlanError where weight or temperature is out of range.
    """

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    form: ClassVar[str] = "row"
    memory: ClassVar[str] = "rows_x_classes"
    needs_labels: ClassVar[bool] = False

    fn: Callable[[Tensor, Tensor], Tensor]
    weight: float = 1.0
    temperature: float = 1.0
    name: str | None = None
    temperature_power: int = 2

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not (math.isfinite(self.weight) and self.weight >= 0):
            problems.append(f"objective {self.kind}: weight is {self.weight}; it must be a number >= 0.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            problems.append(f"objective {self.kind}: temperature is {self.temperature}; it must be a number > 0.")
        if problems:
            raise PlanError(problems)

    @property
    def kind(self) -> str:
        """What the term is called, like a spec's `kind`."""
        return self.name or getattr(self.fn, "__name__", "own")

    def record(self) -> PythonSpec:
        """What a recipe keeps of it: the same for the same code in every process."""
        return PythonSpec(
            kind="python",
            name=self.kind,
            code=hash_function(self.fn),
            weight=float(self.weight),
            temperature=float(self.temperature),
            temperature_power=self.temperature_power,
        )
