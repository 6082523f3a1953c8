"""Objectives against the task, the teacher's signals, and the shapes of both models."""

from __future__ import annotations

from typing import Literal

from attar.plan.notes import Notes
from attar.plan.result import SignalsPlan
from attar.plan.rows import RowsFound, problem_of
from attar.plan.student import StudentFound
from attar.plan.teacher import TeacherFound, image_size, outputs_of
from attar.recipe import Recipe
from attar.recipe.nearest import listed
from attar.recipe.objectives import (
    DistributionSpec,
    HardLabelsSpec,
    HiddenSpec,
    LogitMSESpec,
    PythonSpec,
    RecordedSpec,
    ResponseSpec,
)
from attar.recipe.places import Path
from attar.recipe.teacher import LocalTeacherSpec


def check_objectives(
    recipe: Recipe,
    teacher: TeacherFound,
    student: StudentFound,
    rows: RowsFound,
    notes: Notes,
    python_objects: bool = False,
) -> SignalsPlan:
    """Join what the objectives need with what the teacher offers; problems go to `notes`."""
    needed: dict[str, None] = {}
    mode: str = signals_mode(recipe)
    for number, spec in enumerate(recipe.objectives):
        path: Path = ("objectives", number)
        for signal in _needs(spec, teacher, student, path, notes):
            needed[signal] = None
            _offered(signal, spec, path, teacher, mode, notes)
        _fits_task(recipe, spec, path, rows, notes)
        if isinstance(spec, PythonSpec) and not python_objects:
            notes.problem(
                (*path, "kind"),
                '"python" records a function that was handed over to attar.distill_models; hand it over again.',
            )
    if all(spec.weight == 0 for spec in recipe.objectives):
        notes.problem(
            ("objectives",), "every weight is 0: there is nothing to learn. Give one of them a weight above 0."
        )
    if not needed:
        notes.warn(("objectives",), "no objective asks the teacher: the student learns from the labels alone.")
        mode = "none" if mode != "stored" else mode
    layers = teacher.plan.layers
    offered = teacher.offers
    if offered is None and teacher.config:
        offered = ("logits", *(() if layers is None else (f"hidden:0 to {layers}",)))
    return SignalsPlan(tuple(needed), offered, mode)


def describe(spec: RecordedSpec) -> str:
    """An objective in one line: kind, weight, and the options that differ from their defaults."""
    set_apart = {name: getattr(spec, name) for name in sorted(spec.model_fields_set - {"kind", "weight", "name"})}
    options = "".join(f", {name} {value}" for name, value in set_apart.items())
    title = spec.name if isinstance(spec, PythonSpec) else spec.kind
    return f"{title}  weight {spec.weight:g}{options}"


def signals_mode(recipe: Recipe) -> Literal["live", "store", "stored"]:
    """How the teacher's signals reach the training: asked in every step, labelled once, or labelled elsewhere."""
    teacher = recipe.teacher
    if not isinstance(teacher, LocalTeacherSpec):
        return "stored"
    unpooled = any(isinstance(spec, HiddenSpec) and spec.pool == "none" for spec in recipe.objectives)
    if teacher.signals == "auto":
        return "live" if recipe.training.mixup > 0 or unpooled else "store"
    return teacher.signals


def _needs(spec: RecordedSpec, teacher: TeacherFound, student: StudentFound, path: Path, notes: Notes) -> list[str]:
    """Signals that one objective asks of the teacher, by the names that a store uses."""
    if not isinstance(spec, HiddenSpec):
        return sorted(spec.signals)
    theirs, own = teacher.plan.layers, student.plan.layers
    _hidden_fits(spec, teacher, student, path, notes)
    match spec.layers:
        case "last":
            layers = [-1 if theirs is None else theirs]
        case "uniform":
            if theirs is None or own is None:
                return [f"hidden:uniform:{spec.pool}"]
            layers = [max(1, (2 * position * theirs + own) // (2 * own)) for position in range(1, own + 1)]
        case pairs:
            layers: list[int] = []
            for position, (mine, other) in enumerate(pairs):
                place: Path = (*path, "layers", position)
                for layer, total, whose in ((mine, own, "student"), (other, theirs, "teacher")):
                    if total is not None and not -total - 1 <= layer <= total:
                        notes.problem(
                            place, f"{layer} is no layer of the {whose}. Allowed: 0 (the embeddings) to {total}."
                        )
                layers.append(other if other >= 0 or theirs is None else other + theirs + 1)
    return [f"hidden:{layer}:{spec.pool}" for layer in dict.fromkeys(layers)]


def _hidden_fits(spec: HiddenSpec, teacher: TeacherFound, student: StudentFound, path: Path, notes: Notes) -> None:
    family, own = teacher.plan.family, student.plan.family
    if family is not None and own is not None and family != own and not spec.across_families:
        notes.problem(
            (*path, "across_families"),
            f'the teacher is a "{family}", the student a "{own}": hidden states of different families seldom match. '
            "Drop this objective, or set across_families: true.",
        )
    if spec.pool == "none" and student.own_tokenizer:
        notes.problem(
            (*path, "pool"),
            '"none" compares token by token, but the student splits texts in its own way (its vocabulary is reduced or '
            "another's). Use pool: mean, or student.vocabulary.keep: all.",
        )


def _offered(signal: str, spec: RecordedSpec, path: Path, teacher: TeacherFound, mode: str, notes: Notes) -> None:
    if mode == "store" and signal.endswith(":none"):
        notes.problem(
            (*path, "pool"), "states of every token are not stored. Use pool: mean or first, or teacher.signals: live."
        )
        return
    if teacher.offers is None or not teacher.offers:
        return
    if signal in teacher.offers or (
        signal.startswith(("hidden:-1:", "hidden:uniform:")) and _some_layer(signal, teacher)
    ):
        return
    notes.problem(
        path,
        f"{spec.kind} needs {signal}, but the store offers {listed(teacher.offers)}. Label again with this objective "
        "in the recipe, or drop it.",
    )


def _some_layer(signal: str, teacher: TeacherFound) -> bool:
    """The layer's number is not known from here; a layer with the same pooling may be the one."""
    return any(
        offer.startswith("hidden:") and offer.endswith(signal.rpartition(":")[2]) for offer in teacher.offers or ()
    )


def _fits_task(recipe: Recipe, spec: RecordedSpec, path: Path, rows: RowsFound, notes: Notes) -> None:
    problem = problem_of(recipe.task)
    if problem == "regression" and not isinstance(spec, LogitMSESpec | HiddenSpec | HardLabelsSpec | PythonSpec):
        notes.problem(
            (*path, "kind"),
            f'"{spec.kind}" compares distributions over labels, but task.problem is regression. Allowed: logit_mse, '
            "hidden, hard_labels.",
        )
    if isinstance(spec, ResponseSpec) and spec.standardise:
        if problem != "single_label":
            notes.problem(
                (*path, "standardise"),
                f"a z-score of logits needs several labels a row, but task.problem is {problem}.",
            )
        elif outputs_of(recipe, rows) == 2:
            notes.warn((*path, "standardise"), "with two labels a z-score keeps the sign of the logits alone.")
    if isinstance(spec, HardLabelsSpec):
        if rows.plan.labelled is False:
            notes.problem((*path, "kind"), '"hard_labels" needs labels, and the data has none. Drop this objective.')
        if spec.label_smoothing and problem == "regression":
            notes.problem((*path, "label_smoothing"), "there is no label to smooth: task.problem is regression.")
    if isinstance(spec, HiddenSpec) and spec.pool == "first" and image_size(recipe) is not None:
        notes.warn(
            (*path, "pool"),
            "the first token is a class token in ViT-like models only; convolutional ones give a corner.",
        )
    if spec.weight == 0:
        notes.warn((*path, "weight"), f"{spec.kind} has weight 0: it is logged, and teaches nothing.")
    if isinstance(spec, DistributionSpec) and spec.temperature > 20:
        notes.warn((*path, "temperature"), f"at {spec.temperature:g} both sides are nearly uniform; 1 to 4 is usual.")
