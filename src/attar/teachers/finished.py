"""The teacher of a finished run, found again from the run's folder and recipe."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from attar.errors import TeacherError
from attar.recipe import Recipe
from attar.recipe.task import CausalLMSpec
from attar.recipe.teacher import EnsembleSpec, LocalTeacherSpec, StoredTeacherSpec
from attar.signals import Wanted
from attar.tasks.base import Task
from attar.teachers.fitted import TEACHER, load_fitted, read_fitted
from attar.teachers.local import LocalTeacher, load_local
from attar.teachers.store import open_store
from attar.teachers.stored import find_rescorer, open_stored
from attar.teachers.token_store import TokenStore


def teacher_of(folder: Path, recipe: Recipe, task: Task) -> tuple[LocalTeacher, float]:
    """The teacher, and the temperature that calibrates its logits. Raises TeacherError where it is there no more."""
    fitted = folder / "store" / "teacher"
    match recipe.teacher:
        case StoredTeacherSpec() as spec:
            if isinstance(recipe.task, CausalLMSpec):
                store = open_store(Path(spec.path).expanduser(), TokenStore)
            else:
                store = open_stored(spec, task, Wanted(logits=True))
            found = find_rescorer(spec, store, task)
            if found is None:
                raise TeacherError(
                    f"{spec.path}: the model behind this store is not on this machine. Name it in "
                    "`teacher.rescore_with`."
                )
            return found, 1.0
        case EnsembleSpec():
            raise TeacherError("several teachers taught this student; no one model stands for them. See its report.")
        case LocalTeacherSpec() as spec if spec.fit == "none":
            return load_local(spec, task), 1.0
        case LocalTeacherSpec() as spec:
            if not (fitted / TEACHER).is_file():
                raise TeacherError(f"{fitted}: the fitted teacher is not there any more. Run `attar distill` again.")
            about = read_fitted(fitted)
            temperature = 1.0 if about.temperature_folded else about.temperature
            return load_fitted(fitted, task, trust_remote_code=spec.trust_remote_code), temperature
        case _:
            assert_never(recipe.teacher)
