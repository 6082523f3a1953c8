"""What moves as training goes on: each term's weight and temperature, and how far TAID's target has come.

The schedules are those of `schedules.py`; here they belong to terms, by name. What learns from the loss has a state,
which is checkpointed with the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from attar.objectives.own import OwnObjective
from attar.objectives.schedules import AdaptiveState, Schedule, adapt, constant, cosine, linear
from attar.objectives.terms.balance import Balance
from attar.recipe.objectives import AnyObjectiveSpec, ScheduleSpec, TAIDSpec, TemperedSpec, largest


@dataclass(frozen=True)
class Moment:
    """What holds in one step, by term."""

    done: float
    """Share of the training that is behind, in 0..1."""
    weights: dict[str, float]
    temperatures: dict[str, float]
    """Of the terms that have one."""
    progress: dict[str, float]
    """How far a target that moves has come."""
    written: bool = False
    """Whether the text is the student's own, for objectives that take the two kinds of text apart."""


class Courses(nn.Module):
    """The schedules of the terms in `specs`, by name."""

    def __init__(self, specs: Mapping[str, AnyObjectiveSpec | OwnObjective]) -> None:
        super().__init__()
        self.balance: Balance | None = None
        """Factors of the weights, where these are balanced."""
        self._peaks = {name: largest(spec.weight) for name, spec in specs.items()}
        self._weights = {name: _course(spec.weight) for name, spec in specs.items()}
        tempered = {n: s.temperature for n, s in specs.items() if isinstance(s, TemperedSpec | OwnObjective)}
        self._temperatures = {name: _course(temperature) for name, temperature in tempered.items()}
        self._lines: dict[str, Schedule] = {}
        self.adaptive = nn.ModuleDict()
        """By name: the targets that follow their term's value."""
        for name, spec in specs.items():
            if isinstance(spec, TAIDSpec):
                if spec.schedule == "adaptive":
                    self.adaptive[name] = Adaptive(spec)
                self._lines[name] = partial(_line, start=spec.start, end=spec.end)
        moving = [f"weight_{n}" for n, s in specs.items() if isinstance(s.weight, ScheduleSpec)]
        moving += [f"temperature_{n}" for n, t in tempered.items() if isinstance(t, ScheduleSpec)]
        self._moving = frozenset([*moving, *(f"progress_{name}" for name in self._lines)])

    def at(self, done: float) -> Moment:
        """Weights, temperatures and targets where `done` (0..1) of the training is behind."""
        factors = {} if self.balance is None else self.balance.factors
        ahead = {name: cast("Adaptive", one).state.value for name, one in self.adaptive.items()}
        return Moment(
            done,
            {name: factors.get(name, 1.0) * course(done) for name, course in self._weights.items()},
            {name: course(done) for name, course in self._temperatures.items()},
            {name: max(line(done), ahead.get(name, 0.0)) for name, line in self._lines.items()},
        )

    def balanced(self) -> Balance | None:
        """Make room for factors of the weights; None where fewer than two terms have a weight."""
        weighing = {name: peak for name, peak in self._peaks.items() if peak > 0}
        self.balance = Balance(weighing) if len(weighing) > 1 else None
        return self.balance

    def moving(self, done: float) -> dict[str, float]:
        """Of these, what is not the same throughout: `weight_NAME`, `temperature_NAME`, `progress_NAME`."""
        moment = self.at(done)
        by_kind = {"weight": moment.weights, "temperature": moment.temperatures, "progress": moment.progress}
        named = {f"{kind}_{name}": value for kind, found in by_kind.items() for name, value in found.items()}
        return {name: value for name, value in named.items() if name in self._moving}

    def advance(self, values: Mapping[str, float], done: float) -> None:
        """Let the adaptive targets see their terms' values of a whole step, before which `done` was behind."""
        for name, one in self.adaptive.items():
            cast("Adaptive", one).advance(values[name], done)


class Adaptive(nn.Module):
    """How far TAID's target has come, by the authors' rule (`schedules.adapt`); part of the checkpoint.

    A step whose value is 0 is passed over: it kept no row, or the target is still the student itself. What a step uses
    is this or the line at that step, whichever is further; in the authors' code the line is one step behind.
    """

    def __init__(self, spec: TAIDSpec) -> None:
        super().__init__()
        self.state = AdaptiveState(spec.start)
        self._rule = partial(adapt, start=spec.start, end=spec.end, alpha=spec.alpha, beta=spec.beta)

    def advance(self, loss: float, done: float) -> None:
        """Take in a step's value."""
        if loss > 0:
            self.state = self._rule(self.state, loss, done)

    def get_extra_state(self) -> Tensor:
        """For `state_dict`: in full precision, whatever the module is cast to."""
        last = float("nan") if self.state.last_loss is None else self.state.last_loss
        return torch.tensor([self.state.value, self.state.momentum, last], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """From `load_state_dict`."""
        value, momentum, last = state.tolist()
        self.state = AdaptiveState(value, momentum, None if last != last else last)


def _line(done: float, *, start: float, end: float) -> float:
    """`linear`, and not the last digit past `end`."""
    return min(end, linear(done, start=start, end=end))


def _course(value: float | ScheduleSpec) -> Schedule:
    if not isinstance(value, ScheduleSpec):
        return partial(constant, value=value)
    shape = linear if value.shape == "linear" else cosine
    return partial(shape, start=value.start, end=value.end, over=value.until)
