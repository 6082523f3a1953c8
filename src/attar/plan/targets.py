"""Stored signals of language models: what is kept of each token, and whether the objectives can be trained on it."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from attar.plan.notes import Notes
from attar.recipe import Recipe
from attar.recipe.places import Path
from attar.recipe.targets import SAMPLED, TargetsSpec, unfit
from attar.recipe.task import CausalLMSpec
from attar.recipe.teacher import AskedSpec, StoredTeacherSpec

BYTES_A_TOKEN = 40
"""On disk: about what is stored of a token by default (see benchmarks/README.md)."""
NEEDS_TEACHER = (
    "the teacher that made it is not here, but a language model is judged by its divergence from it on validation and "
    "test. Give its folder or file in teacher.rescore_with."
)


def check_targets(recipe: Recipe, stored: TargetsSpec | None, mode: str, notes: Notes) -> None:
    """Objectives that cannot read what is stored, and `targets` where nothing is stored; `stored`: of a store."""
    spec, language = recipe.teacher, isinstance(recipe.task, CausalLMSpec)
    if isinstance(spec, AskedSpec) and spec.targets is not None and not (language and mode == "store"):
        said = "teacher.signals is not store" if language else f"task.kind is {recipe.task.kind}"
        notes.problem(
            ("teacher", "targets"), f"it tells what a store keeps of a language model's tokens, but {said}. Remove it."
        )
    if not language or mode == "live":
        return
    targets = stored if isinstance(spec, StoredTeacherSpec) else spec.targets or SAMPLED
    if targets is None:
        return
    for number, objective in enumerate(recipe.objectives):
        if (found := unfit(objective, targets)) is not None:
            notes.problem(("objectives", number, found[0]), found[1])


def stored_targets(spec: StoredTeacherSpec, manifest: dict[str, Any], path: Path, notes: Notes) -> TargetsSpec | None:
    """What a store keeps of each token, as its manifest says; None, and a problem, where it keeps none."""
    facts: dict[str, Any] = manifest.get("facts") or {}
    said = {name: value for name, value in (facts.get("targets") or {}).items() if name != "bits"}
    try:
        targets = TypeAdapter[TargetsSpec](TargetsSpec).validate_python(said)
    except ValidationError:
        notes.problem(path, "it holds no tokens of a language model. Label again with task.kind: causal_lm.")
        return None
    folder = (manifest.get("about") or {}).get("folder")
    if spec.rescore_with is None and not (folder and FilePath(folder).exists()):
        notes.problem(path, NEEDS_TEACHER)
    return targets
