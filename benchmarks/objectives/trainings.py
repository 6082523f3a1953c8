"""Short trainings of one case: the teacher is fitted and asked once, each training is kept and never done twice.

Below PLACE/CASE: `store/` (the teacher and its signals), and `trainings/ROW/RATE-WEIGHT-SEED-PART-KEY.npz` with the
logits that the trained student gives on validation or test. KEY is a hash of all that shapes them: recipe, objectives
and their code, data and teacher.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from cases import Case
from filelock import FileLock
from rows import Row, Setting, file_name

from attar.errors import TrainingError
from attar.evaluation.predict import predict_logits
from attar.governance.policy import decide_for, require_allowed
from attar.ground import Ground, Handed
from attar.hashing import hash_value
from attar.identity import hash_function
from attar.objectives.terms.terms import Terms
from attar.plan.objectives import signals_mode
from attar.preparing import prepare
from attar.recipe.training import TrainingSpec
from attar.stages import Stages
from attar.storage import atomic_write
from attar.students.build import Student
from attar.tasks.base import Encoded
from attar.teachers.origin import quiet
from attar.training.rows import LiveTeacher, TrainingRows
from attar.training.train import train

Part = Literal["validation", "test"]


@dataclass(frozen=True)
class Outcome:
    """One training."""

    logits: np.ndarray | None
    """[N, C] on the part that was asked for; None where the training failed."""
    seconds: float
    """Of the processor, on one thread."""
    failed: str = ""


class Trainings:
    """The trainings of one case below `place`; several processes may share it."""

    def __init__(self, case: Case, rows: list[Row], place: Path, say: Callable[[str], None]) -> None:
        self.case, self.place, self.say = case, place / case.name, say
        self.ground = self._prepare(rows)
        gc.collect()
        gc.freeze()  # each training collects garbage, and need not look through all that stays
        self.student = cache(self._student)
        self.encoded = cache(self._encoded)
        self._codes: dict[tuple[str, float | None], str] = {}

    def outcome(self, row: Row, setting: Setting, seed: int, part: Part) -> Outcome:
        """The logits on `part` of the student that `row` trains, from disk if it was trained before."""
        spec = self._training(setting, seed)
        key = self._key(row, setting, spec)
        weight = "" if setting.weight is None else f"{setting.weight:g}"
        name = f"{setting.learning_rate:.4g}-{weight}-{seed}-{part}-{key}.npz"
        file = self.place / "trainings" / file_name(row.name) / name
        if file.is_file():
            return _read(file)
        started = time.process_time()
        try:
            logits, failed = self._train(row, setting, spec, part, key), ""
        except TrainingError as error:
            logits, failed = None, str(error)
        found = Outcome(logits, time.process_time() - started, failed)
        _write(file, found)
        return found

    def labels(self, part: Part) -> np.ndarray:
        """The right answers."""
        return np.asarray(self._rows(part)["label"])

    def teacher(self, part: Part) -> np.ndarray:
        """The teacher's logits [N, C]."""
        return self.ground.teacher_logits(self._rows(part))

    def steps(self) -> int:
        """Of a training."""
        return int(self.case.sections["training"]["max_steps"])

    def _prepare(self, rows: list[Row]) -> Ground:
        """Data, teacher and signals, for all rows that read these from disk."""
        recipes = [self.case.recipe(row.at(row.weights and row.weights[0], self.case.name)) for row in rows]
        stored = [spec for recipe in recipes if signals_mode(recipe) == "store" for spec in recipe.objectives]
        recipe = recipes[0].model_copy(update={"objectives": tuple(dict.fromkeys(stored))})
        policy = decide_for(recipe)
        require_allowed(policy)
        self.place.mkdir(parents=True, exist_ok=True)
        with FileLock(self.place / ".lock"), quiet():
            return prepare(
                recipe, self.place, Stages(self.place / "store" / "stages", self.say),
                handed=Handed(rows=self.case.rows()), policy=policy, progress=lambda *_: None,
            )  # fmt: skip

    def _train(self, row: Row, setting: Setting, spec: TrainingSpec, part: Part, key: str) -> np.ndarray:
        student = self.student(spec.seed)
        student = replace(student, model=deepcopy(student.model))
        terms = self._terms(row, setting.weight, student, spec.seed)
        folder = self.place / "checkpoints" / f"{key}-{part}"
        rows = self._training_rows(row, setting, terms)
        with quiet():
            train(student.model, terms, self.ground.task, rows, spec, folder, key=key)
        shutil.rmtree(folder)
        return predict_logits(student.model, self.ground.task, self.encoded(part), student.processor)

    def _training_rows(self, row: Row, setting: Setting, terms: Terms) -> TrainingRows:
        ground, processor = self.ground, self.student(0).processor
        live = signals_mode(self.case.recipe(row.at(setting.weight, self.case.name))) == "live"
        stored = ground.store if terms.needs_teacher and not live else None
        signals = None if stored is None else stored.reader(self._keys, terms.wanted_teacher)
        asked = self._live(terms) if terms.needs_teacher and live else None
        return TrainingRows(self.encoded("train"), processor, signals, asked)

    def _live(self, terms: Terms) -> LiveTeacher:
        teacher = self.ground.teacher
        assert teacher is not None, "a live teacher is a model"
        return LiveTeacher(teacher.model, self._as_teacher, teacher.processor, teacher.resolve(terms.wanted_teacher))

    @cached_property
    def _keys(self) -> list[str]:
        return self.ground.task.content_keys(self.ground.rows)

    @cached_property
    def _as_teacher(self) -> Encoded:
        return self.ground.task.encode(self.ground.rows, self.ground.processor)

    def _terms(self, row: Row, weight: float | None, student: Student, seed: int) -> Terms:
        return self.ground.terms(student, row.specs(weight, self.case.name), seed)

    def _training(self, setting: Setting, seed: int) -> TrainingSpec:
        fields = {**self.case.sections["training"], "learning_rate": setting.learning_rate, "seed": seed}
        return TrainingSpec(**fields, extra={"logging_steps": self.steps()})

    def _key(self, row: Row, setting: Setting, spec: TrainingSpec) -> str:
        """Hash of all that shapes a training, the code behind its objectives among it."""
        store = self.ground.store
        assert store is not None, "signals are made before they are read"
        recipe = self.ground.recipe
        return hash_value([
            recipe.task.model_dump(mode="json"),
            recipe.student.model_dump(mode="json"),
            [one.model_dump(mode="json") for one in row.specs(setting.weight, self.case.name)],
            spec.model_dump(mode="json"),
            self.ground.splits.hash,
            store.manifest.facts,
            self._code(row, setting.weight),
        ])  # fmt: skip

    def _code(self, row: Row, weight: float | None) -> str:
        """Hash of the code behind a row's objectives, wherever it stands."""
        if (row.name, weight) not in self._codes:
            terms = self._terms(row, weight, self.student(0), seed=0)
            self._codes[row.name, weight] = hash_function(cast("Any", vars(terms)))
        return self._codes[row.name, weight]

    def _student(self, seed: int) -> Student:
        """Every row starts from a copy of it."""
        return self.ground.student(seed)

    def _rows(self, part: str) -> Any:
        return self.ground.rows if part == "train" else getattr(self.ground.splits, part)

    def _encoded(self, part: str) -> Encoded:
        return self.ground.task.encode(self._rows(part), self.student(0).processor)


def _write(file: Path, found: Outcome) -> None:
    buffer = BytesIO()
    logits = np.empty((0, 0), np.float32) if found.logits is None else found.logits
    np.savez(buffer, logits=logits, seconds=found.seconds, failed=found.failed)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, buffer.getvalue())


def _read(file: Path) -> Outcome:
    with np.load(file) as found:
        failed = str(found["failed"])
        return Outcome(None if failed else found["logits"], float(found["seconds"]), failed)
