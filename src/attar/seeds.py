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

from attar.answer_judge import SAID
from attar.exports import Exports
from attar.facts import ArtifactFacts, RefusedFacts, TrainingFacts
from attar.ground import Ground, Objective, Progress
from attar.handover import withdraw
from attar.hashing import hash_value
from attar.judges import PARTS, Judge, Loaded, shared_by
from attar.layer_choice import layer_facts
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import HardLabelsSpec
from attar.signals import Wanted
from attar.stages import Stages
from attar.storage import atomic_folder, atomic_write
from attar.students.build import save_student
from attar.students.lora import ADAPTER, adapt, merge
from attar.students.student import Student
from attar.tasks.base import Encoded
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences
from attar.teachers.store import StoreReader
from attar.training.rows import LiveTeacher, TrainingRows
from attar.training.train import train
from attar.training.two_tokenizers import Paired

Role = Literal["student", "control", "control_random"]


class Answers(BaseModel):
    """What the `answers` stage found besides what stands in its file."""

    temperature: float
    """Of the student's logits, fitted on validation."""


@dataclass
class Seed:
    """One finished seed."""

    seed: int
    folder: Path
    training: dict[Role, TrainingFacts]
    validation: dict[str, np.ndarray]
    """What the models said, by role and for `teacher`, as the run's judge keeps it."""
    test: dict[str, np.ndarray]
    temperature: float
    artifacts: list[ArtifactFacts]
    refused: list[RefusedFacts]


def run_seed(ground: Ground, judge: Judge, seed: int, folder: Path, stages: Stages, progress: Progress) -> Seed:
    """Carry one seed from birth to exported files, below `folder`."""
    training: dict[Role, TrainingFacts] = {
        role: _train(ground, judge, role, seed, folder, stages, progress) for role in roles(ground)
    }
    key = [stages.key_of(f"{seed}/{role}") for role in training] + [ground.splits.hash]
    file = folder / "checkpoints" / "answers.npz"
    found = stages.run(
        f"{seed}/answers", key, [file], Answers, lambda: _answer(ground, judge, list(training), folder, file)
    )
    with np.load(file) as arrays:
        said = {name: arrays[name] for name in arrays.files}
    split = {part: {n.split("/")[1]: v for n, v in said.items() if n.startswith(part)} for part in PARTS}
    student = Exports(
        ground, seed, folder, found.temperature, split["validation"]["student"], split["test"]["teacher"],
        split["test"].get(f"teacher{SAID}"), stages,
    )  # fmt: skip
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


def _train(
    ground: Ground, judge: Judge, role: Role, seed: int, folder: Path, stages: Stages, progress: Progress
) -> TrainingFacts:
    """The control is the student's recipe with the labels as its only objective, those of the data's own answers where
    the student learns from written ones; nothing else differs.
    """
    recipe = ground.recipe
    objectives: Sequence[Objective] = (
        ground.objectives if role == "student" else (HardLabelsSpec(kind="hard_labels", weight=1.0),)
    )
    rollouts = recipe.rollouts if role == "student" else None
    spec = recipe.training.model_copy(update={"seed": seed, **({} if role == "student" else {"balance": "off"})})
    recorded = recipe.objectives if role == "student" else objectives
    shaped_by: list[Any] = [
        recipe.student.model_dump(mode="json", exclude={"licence"}),
        [o.model_dump(mode="json") for o in recorded if isinstance(o, BaseModel)],
        spec.model_dump(mode="json", exclude={"control", "control_random", "tensorboard"}),
        recipe.task.model_dump(mode="json"),
        [ground.splits.hash, ground.signals_key, role, *ground.start],
        *([ground.chosen.model_dump(mode="json")] if role == "student" and ground.chosen.maps else []),
        *([rollouts.model_dump(mode="json", exclude={"url"})] if rollouts is not None else []),
    ]
    place = folder / role

    def work() -> TrainingFacts:
        if stages.ranks.first and place.exists():
            withdraw(ground.out)
        student = ground.student(seed, "random" if role == "control_random" else "recipe")
        lora = getattr(recipe.student, "lora", None)
        if lora is not None:
            student = adapt(student, lora, seed)
        terms = ground.terms(student, objectives, seed)
        rows = ground.rows
        pair = ground.paired(student)
        encoded = ground.task.encode(rows, student.processor) if pair is None else pair.student
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
                signals=_stored(ground, student, encoded, terms.wanted_teacher) if needs and not live else None,
                live=_live(ground, student, encoded, terms, pair) if live else None,
                labels_alone=role != "student",
            ),
            spec,
            checkpoints,
            key=hash_value(shaped_by),
            rollouts=rollouts,
            evaluate=lambda model: judge.quality(model, student.processor),
            progress=progress,
            log=folder / "log.jsonl",
            phase=role,
        )
        student.model.cpu()
        if stages.ranks.first:
            with atomic_folder(place) as fresh:
                model = student.model if lora is None else merge(student.model, fresh / ADAPTER)
                save_student(model, student.processor, fresh)
        layers = layer_facts(terms, objectives, ground.chosen)
        return facts.model_copy(update={"initial": student.initial, "layers": layers})

    return stages.run(f"{seed}/{role}", shaped_by, [place], TrainingFacts, work, together=True)


def _stored(ground: Ground, student: Student, encoded: Encoded, wanted: Wanted) -> StoreReader:
    if isinstance(encoded, Sequences):
        known = shared_by(ground, student.model, student.processor)
        return ground.token_reader(ground.taught(encoded, ground.rows, known))
    return ground.reader(ground.rows, wanted)


def _live(ground: Ground, student: Student, encoded: Encoded, terms: Terms, pair: Paired | None) -> LiveTeacher:
    """The teacher with its view of the rows, which is the student's own where both read by one processor."""
    assert ground.teacher is not None, "live signals need a model"
    teacher, known = ground.teacher, shared_by(ground, student.model, student.processor)
    if pair is not None:
        theirs = ground.taught(pair.teacher, ground.rows)
    elif isinstance(encoded, Sequences):
        theirs = ground.taught(encoded, ground.rows, known)
    else:
        same = student.processor is ground.processor
        theirs = encoded if same else ground.task.encode(ground.rows, ground.processor)
        theirs = theirs if ground.routing is None else ground.routing.route(theirs, ground.rows)
    return LiveTeacher(
        model=teacher.speaker if isinstance(ground.task, CausalLM) else teacher.model,
        encoded=theirs,
        processor=ground.processor,
        wanted=teacher.resolve(terms.wanted_teacher),
        known=known,
        alike=pair is None or terms.one_by_one,
        spans=None if pair is None else (pair.student_spans, pair.teacher_spans),
    )


def _answer(ground: Ground, judge: Judge, trained: Sequence[Role], folder: Path, file: Path) -> Answers:
    """Ask every trained model about validation and test, the latter this once, and fit the student's temperature."""
    models = {str(role): Loaded(*ground.load(folder / role)) for role in trained}
    said = {part: judge.ask(part, models) for part in PARTS}
    buffer = BytesIO()
    arrays = {f"{part}/{name}": array for part, found in said.items() for name, array in found.items()}
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]  # names hold a slash, no keyword of savez does
    atomic_write(file, buffer.getvalue())
    return Answers(temperature=judge.temperature(said["validation"]))


def limit_threads(count: int | None) -> int:
    """Use `count` CPU threads from now on (None: leave as is); returns how many were used before."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    return before
