"""Rollouts against the task, the teacher's signals and the objectives."""

from __future__ import annotations

import importlib.util

from attar.errors import MissingExtra
from attar.plan.notes import Notes
from attar.plan.objectives import signals_mode
from attar.recipe import Recipe
from attar.recipe.objectives import ContrastiveSkewSpec, ObjectiveSpec, PythonSpec, largest
from attar.recipe.places import Path
from attar.recipe.rollouts import RolloutsSpec
from attar.recipe.task import CausalLMSpec

_HERE: Path = ("rollouts",)


def check_rollouts(recipe: Recipe, notes: Notes) -> None:
    """Whether answers can be written, scored by the teacher, and learned from."""
    spec, task = recipe.rollouts, recipe.task
    if spec is None or spec.source != "student":
        _one_sided(recipe, notes)
    if spec is None:
        return
    if not isinstance(task, CausalLMSpec):
        notes.problem(_HERE, f"answers are written by language models, but task.kind is {task.kind}. Remove this.")
        return
    if not spec.fraction:
        notes.warn((*_HERE, "fraction"), "it is 0: nothing is written.")
        return
    _prompts(spec, task, notes)
    _steps(spec, recipe, notes)
    mode = signals_mode(recipe)
    if mode != "live":
        want = "teacher.kind: local and teacher.signals: live" if mode == "stored" else "teacher.signals: live"
        notes.problem(
            (*_HERE, "fraction"),
            f"rollouts.fraction > 0 wants {want}: what is written during the training was never scored before.",
        )
    if recipe.training.parallel == "fsdp":
        notes.problem(
            ("training", "parallel"), "with fsdp no process holds the whole student, which is to write. Use ddp."
        )
    if spec.source == "vllm":
        _served(recipe, notes)


def _one_sided(recipe: Recipe, notes: Notes) -> None:
    for number, objective in enumerate(recipe.objectives):
        if isinstance(objective, ContrastiveSkewSpec):
            notes.problem(
                ("objectives", number, "kind"),
                '"contrastive_skew" compares text of the data with text that the student writes, and it writes none '
                "here: that is skew_kl. Use it, or set rollouts.fraction with source: student.",
            )


def _prompts(spec: RolloutsSpec, task: CausalLMSpec, notes: Notes) -> None:
    if task.messages is None and task.prompt is None:
        notes.problem(
            _HERE,
            "plain texts hold no prompts that could be answered. Set task.prompt or task.messages, or remove this.",
        )
    elif task.learn == "all":
        notes.problem(
            ("task", "learn"), "with `all`, prompts cannot be told from the answers to be written. Use learn: answers."
        )
    if spec.max_new_tokens >= task.max_length:
        notes.problem(
            (*_HERE, "max_new_tokens"),
            f"{spec.max_new_tokens} leaves no room for a prompt in task.max_length {task.max_length}. Lower it, or "
            "raise task.max_length.",
        )


def _steps(spec: RolloutsSpec, recipe: Recipe, notes: Notes) -> None:
    """What there is to learn from in either kind of step."""
    if spec.cold_start == 1:
        notes.warn((*_HERE, "cold_start"), "it is all of the training: nothing is written.")
    if spec.source != "student":
        return
    weighing = [objective for objective in recipe.objectives if largest(objective.weight) > 0]
    labelled = [objective.kind for objective in weighing if _reads_labels(objective)]
    if weighing and len(labelled) == len(weighing):
        notes.problem(
            ("objectives",),
            "no objective learns from the teacher alone, and the data's labels say nothing about what the student "
            "writes. Add one, such as reverse_kl, or remove rollouts.",
        )
    elif labelled and spec.fraction == 1 and not spec.cold_start:
        notes.problem(
            (*_HERE, "fraction"),
            f"in every step the student writes, so {labelled[0]} never has a label. Lower it, set rollouts.cold_start, "
            f"or remove {labelled[0]}.",
        )
    elif labelled:
        notes.warn(
            (*_HERE, "fraction"),
            f"{labelled[0]} takes part in steps on the data's answers only: what the student writes has no label.",
        )


def _reads_labels(spec: ObjectiveSpec) -> bool:
    return spec.labels if isinstance(spec, PythonSpec) else spec.needs_labels


def _served(recipe: Recipe, notes: Notes) -> None:
    """The teacher's tokens are the student's, one by one."""
    vocabulary = getattr(recipe.student, "vocabulary", None)
    if vocabulary is not None and vocabulary.keep != "all":
        notes.problem(
            ("student", "vocabulary", "keep"),
            "the served teacher writes any of its tokens, and this student knows a part of them. Use keep: all.",
        )
    if importlib.util.find_spec("httpx2") is None:
        notes.problem((*_HERE, "source"), str(MissingExtra("httpx2", "api", "rollouts.source: vllm")))
