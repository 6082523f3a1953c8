"""One seed of a run: student and control are trained, answer validation and test once, and the student is exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from attar.answers import agreement
from attar.evaluation.calibration import fit_temperature
from attar.evaluation.metrics import score
from attar.evaluation.predict import predict_logits
from attar.exports import Exports
from attar.facts import ArtifactFacts, RefusedFacts, TrainingFacts
from attar.ground import Ground, Objective, Progress
from attar.handover import withdraw
from attar.hashing import hash_value
from attar.recipe.objectives import HardLabelsSpec
from attar.signals import Wanted
from attar.stages import Stages
from attar.storage import atomic_folder, atomic_write
from attar.students.build import save_student
from attar.tasks.base import Processor
from attar.training.rows import LiveTeacher, TrainingRows
from attar.training.train import train

Role = Literal["student", "control", "control_random"]


class Answers(BaseModel):
    """What the `answers` stage found besides the logits in its file."""

    temperature: float
    """Of the student's logits, fitted on validation."""


@dataclass
class Seed:
    """One finished seed."""

    seed: int
    folder: Path
    training: dict[Role, TrainingFacts]
    validation: dict[str, np.ndarray]
    """Logits [N, C] by role."""
    test: dict[str, np.ndarray]
    temperature: float
    artifacts: list[ArtifactFacts]
    refused: list[RefusedFacts]


def run_seed(ground: Ground, seed: int, folder: Path, stages: Stages, progress: Progress) -> Seed:
    """Carry one seed from birth to exported files, below `folder`."""
    training: dict[Role, TrainingFacts] = {
        role: _train(ground, role, seed, folder, stages, progress) for role in roles(ground)
    }
    key = [stages.key_of(f"{seed}/{role}") for role in training] + [ground.splits.hash]
    file = folder / "checkpoints" / "answers.npz"
    found = stages.run(f"{seed}/answers", key, [file], Answers, lambda: _answer(ground, list(training), folder, file))
    with np.load(file) as arrays:
        logits = {name: arrays[name] for name in arrays.files}
    split = {
        part: {n.split("/")[1]: v for n, v in logits.items() if n.startswith(part)} for part in ("validation", "test")
    }
    student = Exports(ground, seed, folder, found.temperature, split["validation"]["student"], stages)
    made = [student.make(spec) for spec in ground.recipe.export]
    artifacts = [one for one in made if isinstance(one, ArtifactFacts)]
    refused = [one for one in made if isinstance(one, RefusedFacts)]
    return Seed(seed, folder, training, split["validation"], split["test"], found.temperature, artifacts, refused)


def roles(ground: Ground) -> list[Role]:
    """Who is trained: the student, and where there are labels its controls."""
    spec = ground.recipe.training
    found: list[Role] = ["student"]
    if spec.control and ground.splits.labelled:
        found.append("control")
    if spec.control_random and ground.splits.labelled:
        found.append("control_random")
    return found


def _train(ground: Ground, role: Role, seed: int, folder: Path, stages: Stages, progress: Progress) -> TrainingFacts:
    """The control is the student's recipe with the labels as its only objective; nothing else differs."""
    recipe = ground.recipe
    objectives: Sequence[Objective] = (
        ground.objectives if role == "student" else (HardLabelsSpec(kind="hard_labels", weight=1.0),)
    )
    spec = recipe.training.model_copy(update={"seed": seed})
    recorded = recipe.objectives if role == "student" else objectives
    shaped_by: list[Any] = [
        recipe.student.model_dump(mode="json", exclude={"licence"}),
        [o.model_dump(mode="json") for o in recorded if isinstance(o, BaseModel)],
        spec.model_dump(mode="json", exclude={"control", "control_random", "tensorboard"}),
        recipe.task.model_dump(mode="json"),
        [ground.splits.hash, ground.signals_key, role, *ground.start],
    ]
    place = folder / role

    def work() -> TrainingFacts:
        if place.exists():
            withdraw(ground.out)
        student = ground.student(seed, "random" if role == "control_random" else "recipe")
        terms = ground.terms(student, objectives, seed)
        rows = ground.rows
        encoded = ground.task.encode(rows, student.processor)
        needs = terms.needs_teacher
        live = ground.live and needs
        checkpoints = folder / "checkpoints" / role
        facts = train(
            student.model,
            terms,
            ground.task,
            TrainingRows(
                student=encoded,
                processor=student.processor,
                signals=ground.reader(rows, terms.wanted_teacher) if needs and not live else None,
                live=_live(ground, terms.wanted_teacher) if live else None,
            ),
            spec,
            checkpoints,
            key=hash_value(shaped_by),
            evaluate=_scorer(ground, student.processor),
            progress=progress,
            log=folder / "log.jsonl",
            phase=role,
        )
        with atomic_folder(place) as fresh:
            save_student(student.model.cpu(), student.processor, fresh)
        initial = {**student.initial, "layer_pairs": {n: [list(p) for p in v] for n, v in terms.layer_pairs.items()}}
        return facts.model_copy(update={"initial": initial})

    return stages.run(f"{seed}/{role}", shaped_by, [place], TrainingFacts, work)


def _live(ground: Ground, wanted: Wanted) -> LiveTeacher:
    assert ground.teacher is not None, "live signals need a model"
    return LiveTeacher(
        model=ground.teacher.model,
        encoded=ground.task.encode(ground.rows, ground.processor),
        processor=ground.processor,
        wanted=ground.teacher.resolve(wanted),
    )


def _scorer(ground: Ground, processor: Processor) -> Any:
    """A model's quality on validation as a function: the metric, or without labels agreement with the teacher."""
    task, rows = ground.task, ground.splits.validation
    encoded = task.encode(rows, processor)
    teacher = None if ground.splits.labelled else ground.teacher_logits(rows)

    def evaluate(model: nn.Module) -> float:
        logits = predict_logits(model, task, encoded, processor, device=ground.device)
        if teacher is not None:
            return agreement(logits, teacher, task.problem)
        return score(task.metric, logits, encoded.labels, task.problem)

    return evaluate


def _answer(ground: Ground, trained: Sequence[Role], folder: Path, file: Path) -> Answers:
    """Ask every trained model for validation and test, the latter this once, and fit the student's temperature."""
    task = ground.task
    logits: dict[str, np.ndarray] = {}
    labels = np.empty(0)
    for role in trained:
        model, processor = ground.load(folder / role)
        for part, rows in (("validation", ground.splits.validation), ("test", ground.splits.test)):
            encoded = task.encode(rows, processor)
            logits[f"{part}/{role}"] = predict_logits(model, task, encoded, processor)
            labels = encoded.labels if part == "validation" else labels
    buffer = BytesIO()
    np.savez(buffer, **logits)  # pyright: ignore[reportArgumentType]  # names hold a slash, no keyword of savez does
    atomic_write(file, buffer.getvalue())
    labelled = ground.splits.labelled and task.problem != "regression"
    return Answers(temperature=fit_temperature(logits["validation/student"], labels, task.problem) if labelled else 1.0)


def limit_threads(count: int | None) -> int:
    """Use `count` CPU threads from now on (None: leave as is); returns how many were used before."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    return before
