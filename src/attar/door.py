"""The Python door: two functions, one engine. `distill` loads what a recipe names; `distill_models` computes on what
you hand over and needs no network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from attar.data.sources import Given
from attar.errors import RecipeError
from attar.facts import RunFacts
from attar.ground import Handed
from attar.objectives.own import OwnObjective
from attar.recipe import Recipe
from attar.recipe.load import load_recipe, recipe_from
from attar.recipe.objectives import AnyObjectiveSpec, ObjectiveSpec, PythonSpec
from attar.run import run
from attar.tasks.base import Processor

RowLoss = Callable[..., Tensor]


def distill(
    recipe: str | Path | Recipe,
    out: str | Path | None = None,
    *,
    seeds: int = 1,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> RunFacts:
    """Carry a recipe (a file or a `Recipe`) from teacher to exported student, and return what is in run.json.

    `out`: the run's folder; None: `runs/NAME`. `overrides`: as `--set`, for a file. `say` is called with one line a
    stage. Raises the errors of `attar.errors`; a missed budget is told in `.budget`, not raised.
    """
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe), overrides)
    return run(loaded, Path(out) if out is not None else Path("runs") / loaded.name, seeds=seeds, say=say)


def distill_models(
    teacher: nn.Module,
    student: nn.Module | Mapping[str, Any],
    dataset: Given,
    objectives: Sequence[AnyObjectiveSpec | OwnObjective | RowLoss | Mapping[str, Any]],
    *,
    processor: Processor,
    out: str | Path,
    reason: str,
    task: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    seeds: int = 1,
    say: Callable[[str], None] = lambda _: None,
    **sections: Any,
) -> RunFacts:
    """Distil a module into another, on rows that are handed over; the same engine as `distill`.

    `teacher`: any module whose forward takes the task's batches as keywords and answers with logits [N, C] or an object
    with `.logits`. `student`: such a module (it is copied, not changed), or a `student` section of a recipe as a dict.
    `dataset`: a `datasets.Dataset`, columns as lists, a list of rows, or several of these by split name.
    `objectives`: specs, dicts, `OwnObjective`s, or plain functions (student_logits, teacher_logits) -> [N], which are
    given `labels` and `progress` too where they take them (see `OwnObjective`).
    `processor`: the tokenizer or image processor of both. `reason`: why you may distil this teacher; it is recorded.
    `task`, `training` and further sections (`export`, `budget`, `data`, …) are dicts as in a recipe; `task` defaults to
    text classification. Files are written below `out`. Raises as `distill`.
    """
    specs = [_objective(one) for one in objectives]
    recorded = [s.record() if isinstance(s, OwnObjective) else s for s in specs]
    fields: dict[str, Any] = {
        "name": "python",
        "task": {"kind": "text_classification", **(task or {})},
        "teacher": {"kind": "local", "model": "python"},
        "data": {"source": "python"},
        "student": {"kind": "pretrained", "model": "python"} if isinstance(student, nn.Module) else dict(student),
        "objectives": [s.model_dump(mode="json") for s in recorded],
        "training": dict(training or {}),
        "policy": {"decision": "allow", "reason": reason},
    }
    for name, section in sections.items():
        known = fields.get(name, {})
        fields[name] = {**known, **section} if isinstance(section, Mapping) else section
    recipe = recipe_from(fields)
    handed = Handed(
        rows=dataset,
        teacher=teacher,
        student=student if isinstance(student, nn.Module) else None,
        processor=processor,
        objectives=specs,
    )
    return run(recipe, Path(out), seeds=seeds, say=say, handed=handed)


def _objective(given: Any) -> AnyObjectiveSpec | OwnObjective:
    if isinstance(given, Mapping):
        return _spec(cast("Mapping[str, Any]", given))
    if isinstance(given, ObjectiveSpec | OwnObjective) and not isinstance(given, PythonSpec):
        return cast("AnyObjectiveSpec | OwnObjective", given)
    if callable(given):
        return OwnObjective(cast("RowLoss", given))
    raise RecipeError(f"objectives: {given!r} is neither a spec, a dict, an OwnObjective nor a function.")


def _spec(fields: Mapping[str, Any]) -> AnyObjectiveSpec:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter[AnyObjectiveSpec](AnyObjectiveSpec).validate_json(json.dumps(dict(fields)))
    except TypeError as error:
        raise RecipeError(f"objectives: {fields!r} holds more than text, numbers and lists: {error}.") from None
    except ValidationError as error:
        raise RecipeError(
            [f"objectives: {problem['msg']} (got {problem['input']!r})" for problem in error.errors()]
        ) from None
