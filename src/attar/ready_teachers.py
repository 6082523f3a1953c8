"""The recipe's teacher, fitted if need be and ready to be asked: one model, or several as one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset

from attar.bench.size import count_params, weight_bytes
from attar.data.splits import Splits
from attar.errors import PlanError
from attar.facts import ModelFacts, SourceFacts
from attar.fine_tuning import tune_teacher
from attar.ground import Handed, Progress
from attar.hashing import hash_bytes, hash_file, hash_value
from attar.plan.objectives import signals_mode
from attar.recipe import Recipe
from attar.recipe.teacher import EnsembleSpec, LocalTeacherSpec
from attar.stages import Stages
from attar.tasks import CausalLM
from attar.tasks.base import Task
from attar.teachers.fitted import FittedFacts, load_fitted
from attar.teachers.fitting import fit_teacher
from attar.teachers.local import LocalTeacher, find_origin, from_module, load_local
from attar.teachers.several import join_teachers, reads_alike


@dataclass(frozen=True)
class Ready:
    """A teacher, and for the record what it is."""

    teacher: LocalTeacher
    fitted: dict[str, str | None]
    """By name of each (see `LocalTeacher.alone`): hash of a fitted teacher's weights alone (its record also holds how
    long the fitting took); None: not fitted.
    """

    @property
    def facts(self) -> ModelFacts:
        """Name and size; of several teachers the sum."""
        models = [one.core for one in self.teacher.alone.values()]
        return ModelFacts(
            name=self.teacher.source.name,
            family=self.teacher.family,
            params=sum(count_params(model) for model in models),
            bytes=sum(weight_bytes(model) for model in models),
        )

    @property
    def sources(self) -> list[SourceFacts]:
        """What it came from: itself first, then of several each."""
        return [self.teacher.source, *(one.source for one in self.teacher.members.values())]


def ready_teacher(
    recipe: Recipe, out: Path, task: Task, splits: Splits, stages: Stages, handed: Handed, device: str,
    progress: Progress,
) -> Ready:  # fmt: skip
    """Load the recipe's teacher, which is on this machine; fit it first where the recipe says so, each by itself."""
    spec = recipe.teacher
    if handed.teacher is not None:
        return Ready(from_module(handed.teacher, handed.processor, task), {"teacher": None})
    making = _Making(recipe, task, splits, stages, device, progress)
    if not isinstance(spec, EnsembleSpec):
        assert isinstance(spec, LocalTeacherSpec), "a store is opened, not asked"
        teacher = making.one(spec, out / "store" / "teacher", "teacher")
        return Ready(teacher, {"teacher": _fitted(spec, teacher)})
    members = {
        name: making.one(spec.alone(name), out / "store" / "teachers" / name, f"teacher/{name}")
        for name in spec.members
    }
    fitted = {name: _fitted(spec.alone(name), one) for name, one in members.items()}
    if signals_mode(recipe) == "live":
        _require_one_view(members, task, splits.train)
    return Ready(join_teachers(members, fitted, spec, task), fitted)


@dataclass(frozen=True)
class _Making:
    recipe: Recipe
    task: Task
    splits: Splits
    stages: Stages
    device: str
    progress: Progress

    def one(self, spec: LocalTeacherSpec, folder: Path, stage: str) -> LocalTeacher:
        """One model, fitted into `folder` by the stage of this name if need be."""
        task, splits, training = self.task, self.splits, self.recipe.training
        if spec.fit == "none":
            return load_local(spec, task)
        origin = "config" if spec.model is None else find_origin(spec).source.hash
        fields = spec.model_dump(mode="json", include={"config", "fit", "fitting", "pooling", "batch_tokens"})
        rows = replace(splits, transfer=None, hash=_hash_rows(task, splits.train, splits.validation))
        shaped_by = [fields, origin, task.spec.model_dump(mode="json"), list(task.labels), rows.hash]

        def work() -> FittedFacts:
            if isinstance(task, CausalLM):
                return tune_teacher(
                    spec, task, rows, folder, training, device=self.device, progress=self.progress,
                    ranks=self.stages.ranks,
                )  # fmt: skip
            return fit_teacher(spec, task, rows, folder, device=self.device, progress=self.progress)

        shaped_by += [training.precision] if isinstance(task, CausalLM) else []
        self.stages.run(stage, shaped_by, [folder], FittedFacts, work, together=isinstance(task, CausalLM))
        return load_fitted(folder, task, trust_remote_code=spec.trust_remote_code)


def _hash_rows(task: Task, *parts: Dataset) -> str:
    """Content hash of rows and their labels, in order."""
    keys = [key.encode() for rows in parts for key in task.content_keys(rows)]
    return hash_bytes(*keys, *(np.asarray(rows["label"]).tobytes() for rows in parts))


def _fitted(spec: LocalTeacherSpec, teacher: LocalTeacher) -> str | None:
    folder = teacher.folder
    if spec.fit == "none" or folder is None:
        return None
    return hash_value([[p.relative_to(folder).as_posix(), hash_file(p)] for p in sorted(folder.rglob("*.safetensors"))])


def _require_one_view(members: dict[str, LocalTeacher], task: Task, rows: Dataset) -> None:
    """Raise PlanError where teachers that are asked in every step read a row in different ways."""
    first, *others = members
    for name in others:
        if not reads_alike(task, rows, members[first].processor, members[name].processor):
            raise PlanError(
                f'teacher.members.{name}: reads rows otherwise than "{first}" (another tokenizer or image processor), '
                "but teachers that are asked in every step share one batch. Use teacher.signals: store, where each "
                "reads rows in its own way, or members that read alike."
            )
