"""The check before work: do the parts of a recipe fit each other, its inputs and this machine, and what will it take?

Joins signals needed with signals offered, labels with labels, shapes with shapes; sizes come from configurations and
safetensors headers. No torch, no Transformers, no network: well under a second. Every problem is raised at once.
"""

from __future__ import annotations

from pathlib import Path

from attar.plan.budget import check_budget
from attar.plan.costs import estimate
from attar.plan.ensemble import look_at_teacher, notes_of_first
from attar.plan.language import look_at_language
from attar.plan.layers import of_a_batch
from attar.plan.lengths import lengths_of
from attar.plan.notes import Notes
from attar.plan.objectives import check_objectives, describe
from attar.plan.quantization import check_quantization, told
from attar.plan.result import DataPlan, Estimate, ModelPlan, Plan, SignalsPlan, Size
from attar.plan.rollouts import check_rollouts
from attar.plan.rows import look_at_rows, problem_of
from attar.plan.settings import check_settings
from attar.plan.student import look_at_student
from attar.recipe import Recipe
from attar.recipe.task import CausalLMSpec

__all__ = ["DataPlan", "Estimate", "ModelPlan", "Plan", "SignalsPlan", "Size", "make_plan"]


def make_plan(recipe: Recipe, *, python_objects: bool = False, out: Path | None = None) -> Plan:
    """Check a recipe against its inputs, and say what is known before work begins.

    `python_objects`: the names `python` stand for models and rows handed over in Python, which cannot be seen here.
    `out`: the run's folder, for the free disk space (absent: the working folder). Raises PlanError with every problem,
    in the order of the file, each with its place.
    """
    notes = Notes(recipe.places)
    rows = look_at_rows(recipe, notes, python_objects)
    teacher = look_at_teacher(recipe, rows, notes, python_objects)
    student = look_at_student(recipe, teacher, rows, notes, python_objects)
    lengths = lengths_of(recipe.task, rows, teacher.tokenizer) if isinstance(recipe.task, CausalLMSpec) else None
    language = look_at_language(recipe, teacher, student, lengths, notes_of_first(recipe, notes))
    signals = check_objectives(recipe, teacher, student, rows, notes, python_objects)
    check_rollouts(recipe, notes)
    check_settings(recipe, teacher, rows, notes)
    check_quantization(recipe, notes)
    estimates = estimate(recipe, teacher, student, rows, signals, lengths, out or Path(), notes)
    budget = check_budget(recipe, teacher.plan, student.plan, notes)
    notes.finish()
    return Plan(
        name=recipe.name,
        recipe_hash=recipe.hash,
        task=recipe.task.kind if recipe.task.kind == "causal_lm" else f"{recipe.task.kind}, {problem_of(recipe.task)}",
        teacher=teacher.plan,
        student=student.plan,
        data=rows.plan,
        language=language,
        signals=signals,
        objectives=tuple(describe(spec) + of_a_batch(recipe, spec) for spec in recipe.objectives),
        rounding=told(recipe),
        estimates=estimates,
        budget=budget,
        warnings=tuple(notes.warnings),
        foretold=tuple(notes.foretold),
    )
