"""A recipe: a typed, frozen, hashable description of one distillation. YAML is its written form. No torch here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PrivateAttr

from attar.hashing import hash_value
from attar.recipe.base import Name, Spec
from attar.recipe.data import DataSpec
from attar.recipe.objectives import RecordedSpec
from attar.recipe.outcome import BudgetSpec, ExportSpec, PolicySpec, ReportSpec
from attar.recipe.places import Places
from attar.recipe.rollouts import RolloutsSpec
from attar.recipe.student import StudentSpec
from attar.recipe.task import TaskSpec
from attar.recipe.teacher import EnsembleSpec, TeacherSpec
from attar.recipe.training import TrainingSpec

__all__ = ["Recipe"]


class Recipe(Spec):
    """One distillation, from teacher to exported student."""

    name: Name = Field(description="Name of the run's folder and of the student.")
    description: str | None = Field(default=None, description="For people.")
    task: TaskSpec = Field(description="What the student is to do.")
    teacher: TeacherSpec = Field(description="Who is asked for signals.")
    data: DataSpec = Field(description="Where rows come from.")
    student: StudentSpec = Field(description="The small model.")
    objectives: Annotated[tuple[RecordedSpec, ...], Field(min_length=1)] = Field(
        description="Losses, each with its weight."
    )
    training: TrainingSpec = Field(default=TrainingSpec(), description="How the student is trained.")
    rollouts: RolloutsSpec | None = Field(
        default=None, description="Answers written while a language model is trained; absent: the data's alone."
    )
    budget: BudgetSpec = Field(default=BudgetSpec(), description="Limits on the outcome.")
    export: tuple[ExportSpec, ...] = Field(default=(), description="Files to hand over.")
    policy: PolicySpec = Field(default=PolicySpec(), description="Recorded permission to distil this teacher.")
    report: ReportSpec = Field(default=ReportSpec(), description="What the report shows.")

    _places: Places = PrivateAttr(default_factory=Places)

    @property
    def places(self) -> Places:
        """Where each value was written; empty for a recipe made in Python. No part of its equality or hash."""
        return self._places

    def located(self, places: Places) -> Recipe:
        """The same recipe that knows where its values were written, so that later errors can name lines."""
        copy = self.model_copy()
        copy._places = places
        return copy

    @property
    def row_task(self) -> TaskSpec:
        """The task as rows are read for it: with the column that routes them to one of several teachers, if any."""
        teacher = self.teacher
        if not isinstance(teacher, EnsembleSpec) or teacher.route is None:
            return self.task
        return self.task.model_copy(update={"slice_by": teacher.route.by})

    @property
    def hash(self) -> str:
        """Canonical hash of all that is in the recipe, defaults included; names the run."""
        return hash_value(self.model_dump(mode="json"))
