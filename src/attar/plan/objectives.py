"""Objectives against the task, the teacher's signals, and the shapes of both models."""

from __future__ import annotations

from typing import Literal

from attar.plan.ensemble import unshown
from attar.plan.layers import check_layers, layer_signals, live_only, told_unpooled
from attar.plan.notes import Notes
from attar.plan.result import SignalsPlan
from attar.plan.rows import RowsFound, problem_of
from attar.plan.student import StudentFound
from attar.plan.targets import check_targets
from attar.plan.teacher import TeacherFound, outputs_of
from attar.recipe import Recipe
from attar.recipe.nearest import listed
from attar.recipe.objectives import (
    CROSS_KINDS,
    CrossTokenSpec,
    DISTSpec,
    HardLabelsSpec,
    LabelledSpec,
    LayeredSpec,
    LogitMSESpec,
    PythonSpec,
    RecordedSpec,
    ResponseSpec,
    ScheduleSpec,
    SparseKLSpec,
    SparseReverseKLSpec,
    TemperedSpec,
    in_words,
    largest,
)
from attar.recipe.places import Path
from attar.recipe.task import CausalLMSpec
from attar.recipe.teacher import AskedSpec


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
        layered = isinstance(spec, LayeredSpec)
        signals = layer_signals(spec, teacher, student, path, notes) if layered else sorted(spec.signals)
        if layered:
            check_layers(recipe, spec, teacher, student, path, notes)
        for signal in signals:
            needed[signal] = None
            _offered(recipe, signal, spec, path, teacher, mode, notes)
        _fits_task(recipe, spec, path, rows, notes)
        _fits_tokens(recipe, spec, path, student, notes)
        if isinstance(spec, PythonSpec) and not python_objects:
            notes.problem(
                (*path, "kind"),
                '"python" records a function that was handed over to attar.distill_models; hand it over again.',
            )
    check_targets(recipe, teacher.targets, mode, notes)
    weighing = sum(largest(spec.weight) > 0 for spec in recipe.objectives)
    if not weighing:
        notes.problem(
            ("objectives",), "every weight is 0: there is nothing to learn. Give one of them a weight above 0."
        )
    if recipe.training.balance != "off" and weighing == 1:
        notes.warn(("training", "balance"), "there is one objective with a weight: nothing to balance.")
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
    fields = {name: field.default for name, field in type(spec).model_fields.items()}
    set_apart = {
        name: getattr(spec, name)
        for name in sorted(fields.keys() - {"kind", "weight", "name"})
        if getattr(spec, name) != fields[name]
    }
    options = "".join(
        f", {name} {in_words(value) if isinstance(value, ScheduleSpec) else value}" for name, value in set_apart.items()
    )
    title = spec.name if isinstance(spec, PythonSpec) else spec.kind
    return f"{title}  weight {in_words(spec.weight)}{options}"


def signals_mode(recipe: Recipe) -> Literal["live", "store", "stored"]:
    """How the teacher's signals reach the training: asked in every step, labelled once, or labelled elsewhere."""
    teacher = recipe.teacher
    if not isinstance(teacher, AskedSpec):
        return "stored"
    if teacher.signals == "auto":
        if isinstance(recipe.task, CausalLMSpec):
            return "live"
        live = recipe.training.mixup > 0 or any(live_only(spec) for spec in recipe.objectives)
        return "live" if live else "store"
    return teacher.signals


def _offered(
    recipe: Recipe, signal: str, spec: RecordedSpec, path: Path, teacher: TeacherFound, mode: str, notes: Notes
) -> None:
    if mode != "live" and isinstance(recipe.task, CausalLMSpec):
        return  # told by `check_targets`
    if mode != "live" and live_only(spec):
        ask = "teacher.signals: live" if mode == "store" else "teacher.kind: local"
        notes.problem(path, f"{told_unpooled(spec)} not stored. Use {ask}, or hidden with pool: mean.")
        return
    if teacher.members and signal != "logits":
        if (told := unshown(teacher, signal)) is not None:
            notes.problem(path, f"{spec.kind} needs {signal}, but {told}")
        return
    if teacher.offers is None or not teacher.offers:
        return
    if signal in teacher.offers or (
        signal.startswith(("hidden:-1:", "hidden:uniform:", "hidden:cka:")) and _some_layer(signal, teacher)
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
    if isinstance(recipe.task, CausalLMSpec) and isinstance(spec, DISTSpec):
        notes.problem((*path, "kind"), '"dist" correlates over whole columns of logits, which are not held here.')
    if problem == "regression" and not isinstance(spec, LogitMSESpec | LayeredSpec | HardLabelsSpec | PythonSpec):
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
    if rows.plan.labelled is False and (spec.needs_labels or (isinstance(spec, PythonSpec) and spec.labels)):
        notes.problem((*path, "kind"), f'"{spec.kind}" needs labels, and the data has none. Drop this objective.')
    _fits_logits(spec, path, problem, outputs_of(recipe, rows), notes)
    if isinstance(spec, HardLabelsSpec):
        if spec.label_smoothing and problem == "regression":
            notes.problem((*path, "label_smoothing"), "there is no label to smooth: task.problem is regression.")
    if largest(spec.weight) == 0:
        notes.warn((*path, "weight"), f"{spec.kind} has weight 0: it is logged, and teaches nothing.")
    if isinstance(spec, TemperedSpec) and not isinstance(spec, LogitMSESpec) and largest(spec.temperature) > 20:
        told = f"at {largest(spec.temperature):g} both sides are nearly uniform; 1 to 4 is usual."
        notes.warn((*path, "temperature"), told)


def _fits_tokens(recipe: Recipe, spec: RecordedSpec, path: Path, student: StudentFound, notes: Notes) -> None:
    """Objectives between tokenizers have their task and the data's texts; the others need one tokenizer."""
    if isinstance(spec, CrossTokenSpec):
        if not isinstance(recipe.task, CausalLMSpec):
            notes.problem(
                (*path, "kind"),
                f'"{spec.kind}" is for language models with two tokenizers, but task.kind is {recipe.task.kind}. Use '
                "forward_kl.",
            )
        if recipe.rollouts is not None and recipe.rollouts.fraction:
            notes.problem(
                (*path, "kind"),
                f'"{spec.kind}" compares the data\'s texts as two tokenizers cut them; what the student writes has its '
                "own tokens alone. Use reverse_kl, or remove rollouts.",
            )
        return
    relation = student.relation
    if recipe.rollouts is not None and recipe.rollouts.fraction and relation is not None and relation.kind == "other":
        notes.problem(
            ("rollouts", "fraction"),
            "the student writes tokens of its own, which the teacher's tokenizer does not have. Set 0, or use a "
            "student with the teacher's tokenizer (student.kind: from_teacher).",
        )
    if relation is None or relation.kind != "other" or isinstance(spec, LayeredSpec | HardLabelsSpec):
        return
    name = spec.name if isinstance(spec, PythonSpec) else spec.kind
    notes.problem(
        (*path, "kind"),
        f'"{name}" compares token by token, but {relation.strangers:,} of the student\'s tokens are unknown to the '
        f"teacher's tokenizer: {relation.first}. Between two tokenizers these work: {', '.join(CROSS_KINDS)} (and "
        "hard_labels, hidden with pool: mean). Or use a student with the teacher's tokenizer (student.kind: "
        "from_teacher).",
    )


def _fits_logits(spec: RecordedSpec, path: Path, problem: str, outputs: int | None, notes: Notes) -> None:
    """What an objective on logits needs of the rows' form."""
    if problem == "multi_label" and isinstance(spec, LabelledSpec | DISTSpec):
        notes.problem(
            (*path, "kind"),
            f'"{spec.kind}" compares classes of which one is right, but task.problem is multi_label. Use forward_kl.',
        )
    if outputs is None or problem != "single_label":
        return
    if isinstance(spec, DISTSpec) and outputs == 2:
        notes.warn((*path, "kind"), "with two labels the correlation along a row is the sign of its logits alone.")
    if isinstance(spec, SparseKLSpec | SparseReverseKLSpec) and spec.k >= outputs - 1:
        whole = "forward_kl" if isinstance(spec, SparseKLSpec) else "reverse_kl"
        notes.warn((*path, "k"), f"{spec.k} of {outputs} outputs are listed: this is {whole}.")
