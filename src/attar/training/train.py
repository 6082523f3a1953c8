"""One training, from fresh or half-trained to final weights. Student and control go through here alike."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from attar.errors import TrainingError
from attar.facts import TrainingFacts
from attar.objectives.terms import Terms
from attar.recipe.training import TrainingSpec
from attar.signals import Wanted
from attar.storage import guard
from attar.tasks.base import Task
from attar.training.arguments import arguments, total_steps
from attar.training.distil import Distil
from attar.training.rows import Collator, LengthGroups, TrainingRows
from attar.training.trainer import BEST, DistilTrainer, Evaluate, clear_strays, newest

Progress = Callable[[str, int, int], None]


def train(
    model: nn.Module,
    terms: Terms,
    task: Task,
    rows: TrainingRows,
    spec: TrainingSpec,
    out: Path,
    *,
    key: str,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
    log: Path | None = None,
    phase: str = "student",
) -> TrainingFacts:
    """Train `model` in place to the weights that `spec.keep` names, and say how it went.

    `out` holds checkpoints; the newest whole one with the same `key` (a hash of all that shapes the training) is
    resumed, bit for bit on the same machine and thread count. `evaluate` gives the quality of a model on validation,
    higher is better. `log` receives a JSON line a logged step. The global random state is left as it was.

    Raises TrainingError where loss or weights are no finite numbers, StorageError where a checkpoint cannot be written.
    """
    steps = total_steps(spec, len(rows))
    sampler = LengthGroups(rows.student.lengths, spec.batch_size, spec.seed)
    collator = Collator(rows, task, sampler, spec.token_dropout, spec.mixup)
    live = rows.live
    with _global_state_kept(), guard(out):
        out.mkdir(parents=True, exist_ok=True)
        clear_strays(out, key)
        resumed = newest(out, key)
        if resumed is None:
            (out / BEST).unlink(missing_ok=True)
        distil = Distil(model, terms, None if live is None else live.model, Wanted() if live is None else live.wanted)
        trainer = DistilTrainer(
            distil,
            arguments(spec, steps, out),
            rows,
            collator,
            sampler,
            key=key,
            evaluate_student=evaluate,
            keep_best=spec.keep == "best",
            callbacks=[_Epochs(sampler), _Journal(log, phase), _Bar(progress, phase, steps)],
        )
        if resumed is not None:
            step, value = json.loads((resumed / "complete.json").read_text(encoding="utf-8"))["best"]
            trainer.best = (int(step), float(value))
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        seconds = time.perf_counter() - started
        history: list[dict[str, float]] = trainer.state.log_history
        if evaluate is not None and not any("validation" in e and e["step"] == steps for e in history):
            trainer.evaluate()
        best = _keep(model, trainer, out) if spec.keep == "best" else steps
    if any(not bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise TrainingError(f"{phase}: a weight is no finite number after {steps} steps. Lower training.learning_rate.")
    model.eval()
    done = steps - (0 if resumed is None else int(resumed.name.rsplit("-", 1)[1]))
    return TrainingFacts(
        steps=steps,
        epochs=round(trainer.state.epoch or 0.0, 4),
        rows_per_second=round(done * spec.batch_size * spec.accumulate / max(seconds, 1e-9), 1),
        seconds=seconds,
        curve=_curve(trainer.state.log_history),
        best_step=best,
    )


def _keep(model: nn.Module, trainer: DistilTrainer, out: Path) -> int:
    """Load the best weights back; returns their step."""
    if (out / BEST).is_file():
        load_model(model, str(out / BEST))
        return trainer.best[0]
    return trainer.state.global_step


def _curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """One point a step: loss, terms, learning rate and validation, whichever were logged there."""
    points: dict[int, dict[str, float]] = {}
    for entry in history:
        if "loss" in entry or "validation" in entry:
            point = points.setdefault(int(entry["step"]), {"step": float(entry["step"])})
            point |= {k: round(float(v), 6) for k, v in entry.items() if k in ("loss", "validation") or k[:5] == "term_"}
    return [points[step] for step in sorted(points)]


@contextmanager
def _global_state_kept() -> Generator[None]:
    """Transformers seeds and talks globally; put both back."""
    python, numpy_state, level = random.getstate(), np.random.get_state(), logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        logging.set_verbosity(level)
        random.setstate(python)
        np.random.set_state(numpy_state)


class _Epochs(TrainerCallback):
    """Tells the sampler its epoch before batches are drawn, also after a resume."""

    def __init__(self, sampler: LengthGroups) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.sampler.set_epoch(int((state.epoch or 0.0) + 1e-6))


class _Journal(TrainerCallback):
    """Appends what is logged to a JSON Lines file."""

    def __init__(self, path: Path | None, phase: str) -> None:
        self.path, self.phase = path, phase

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        if self.path is None or not ("loss" in logs or "validation" in logs):
            return
        with guard(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"phase": self.phase, "step": state.global_step, **logs}) + "\n")


class _Bar(TrainerCallback):
    """Moves the caller's progress bar, at most five times a second."""

    def __init__(self, progress: Progress | None, phase: str, steps: int) -> None:
        self.progress, self.phase, self.steps, self.shown = progress, phase, steps, 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.monotonic()
        if self.progress is not None and (now - self.shown > 0.2 or state.global_step == self.steps):
            self.shown = now
            self.progress(f"training the {self.phase.replace('_', ' ')}", state.global_step, self.steps)
