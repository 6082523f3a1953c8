"""What listens to the training: when to log, evaluate and save; the JSON Lines log; TensorBoard; the progress bar."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attar.errors import MissingExtra
from attar.storage import atomic_write, guard

Progress = Callable[[str, int, int], None]
"""`progress(message, done, total)`."""

_LOGGED = (
    "step", "epoch", "loss", "terms", "scheduled", "learning_rate", "grad_norm", "rows_per_second", "rollouts",
    "validation",
)  # fmt: skip
_OF_TEXTS = ("rollout_length", "rollout_at_limit")
_PAUSE = 0.1
"""Seconds between two moves of the bar."""


class Schedule(TrainerCallback):
    """Says at which steps to log, evaluate and save.

    Evaluations and checkpoints are evenly spaced and end with the last step; both are logged steps, so that a
    checkpoint has nothing logged by halves. `checkpoints` 0: one, at the end.
    """

    def __init__(self, steps: int, *, log_every: int, evaluations: int, checkpoints: int) -> None:
        self.evaluations = evenly(steps, evaluations)
        self.saves = evenly(steps, max(1, checkpoints))
        self.log_every = log_every

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Set the step's switches."""
        step = state.global_step
        control.should_evaluate = step in self.evaluations
        control.should_save = step in self.saves
        control.should_log = step == 1 or step % self.log_every == 0 or control.should_evaluate or control.should_save


def evenly(steps: int, times: int) -> frozenset[int]:
    """`times` of the steps 1..`steps`, evenly spaced, the last among them."""
    return frozenset(math.ceil(steps * i / times) for i in range(1, times + 1))


class AfterStep(TrainerCallback):
    """Does something after each step, before it is logged and saved."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Do it."""
        self._act()


class JsonLog(TrainerCallback):
    """Appends a line a logged step: phase, step, epoch, loss, terms, scheduled, learning_rate, rows_per_second,
    rollouts, validation. `scheduled` are the weights, temperatures and targets that move, as they were in that step;
    `rollouts` what was written since the line before, its mean length, and its share at the limit and of the time.

    `history` holds what was logged before, where a run is resumed: the file is first put in the state that it had then,
    other phases' lines untouched.
    """

    def __init__(self, path: Path, phase: str, history: list[dict[str, Any]]) -> None:
        self.path, self.phase = path, phase
        self._line: dict[str, Any] = {}
        others = [line for line in read_lines(path) if line.get("phase") != phase]
        atomic_write(path, "".join(json.dumps(line) + "\n" for line in [*others, *map(self._named, merged(history))]))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any) -> None:
        """Hold what is logged until the step is over: the validation comes after the loss."""
        logs: dict[str, Any] = told["logs"]
        if "loss" in logs or "validation" in logs:
            self._line |= {"step": state.global_step, **logs}

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the last step's line, if it has one."""
        if self._line:
            line, self._line = self._named(self._line), {}
            with guard(self.path), self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")

    on_train_end = on_step_begin

    def _named(self, entry: dict[str, Any]) -> dict[str, Any]:
        return {"phase": self.phase, **{name: _finite(entry[name]) for name in _LOGGED if name in entry}}


def merged(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trainer's log, one entry a step, in order."""
    by_step: dict[int, dict[str, Any]] = {}
    for entry in history:
        if "loss" in entry or "validation" in entry:
            by_step.setdefault(int(entry["step"]), {}).update(entry)
    return [by_step[step] for step in sorted(by_step)]


def curve(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Points of the training curve: step, epoch, loss, learning_rate, validation, each term as `term_NAME`, and what is
    scheduled as `weight_NAME`, `temperature_NAME` or `progress_NAME`; of rollouts `rollout_length`, `rollout_at_limit`.
    """
    points: list[dict[str, float]] = []
    for entry in merged(history):
        terms = cast("dict[str, float]", entry.get("terms", {}))
        names = [n for n in ("step", "epoch", "loss", "learning_rate", "validation") if entry.get(n) is not None]
        named = {f"term_{name}": value for name, value in terms.items()}
        named |= {name: value for name, value in _rollouts(entry).items() if name in _OF_TEXTS}
        point = {**named, **entry.get("scheduled", {}), **{name: float(entry[name]) for name in names}}
        points.append({name: value for name, value in point.items() if math.isfinite(value)})
    return points


class Bar(TrainerCallback):
    """Moves the caller's progress bar, ten times a second at most."""

    def __init__(self, progress: Progress, phase: str) -> None:
        self.progress, self.phase, self._next = progress, phase, 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show the step, if the last one was shown long enough ago."""
        now = time.monotonic()
        if now >= self._next or state.global_step >= state.max_steps:
            self._next = now + _PAUSE
            self.progress(f"training the {self.phase.replace('_', ' ')}", state.global_step, state.max_steps)


class Events(TrainerCallback):
    """TensorBoard events of all that is logged. Raises MissingExtra without the package."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("tensorboard", "tensorboard", "training.tensorboard") from error
        self._writer = cast("Any", SummaryWriter)(str(folder))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any) -> None:
        """Write one scalar a number."""
        logs: dict[str, Any] = told["logs"]
        for name, value in (logs | logs.get("terms", {}) | logs.get("scheduled", {}) | _rollouts(logs)).items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the file."""
        self._writer.close()


def _rollouts(logs: dict[str, Any]) -> dict[str, float]:
    return {f"rollout_{name}": value for name, value in logs.get("rollouts", {}).items()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What a log holds; a line that a killed run left half written is passed over."""
    found: list[dict[str, Any]] = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(text))
            except ValueError:
                continue
    return found


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
