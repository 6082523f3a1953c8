"""Training, export and metric settings against the task and the machine's packages."""

from __future__ import annotations

import importlib.util
from typing import Any

from attar.errors import MissingExtra
from attar.plan.edge import check_edge, packages_of
from attar.plan.layers import BY_TOKEN
from attar.plan.notes import Notes
from attar.plan.rows import RowsFound, problem_of
from attar.plan.teacher import TeacherFound, image_size
from attar.plan.transformers_source import training_fields
from attar.recipe import Recipe
from attar.recipe.names import taken
from attar.recipe.nearest import did_you_mean
from attar.recipe.objectives import LayeredSpec
from attar.recipe.outcome import EdgeSpec, GGUFSpec, OnnxSpec, WebSpec
from attar.recipe.places import Path
from attar.recipe.student import FromConfigSpec, FromTeacherSpec
from attar.recipe.task import CausalLMSpec
from attar.recipe.teacher import AskedSpec

_NUMBERS = ("pearson", "spearman")
_MANY_ANSWERS = 4000


def check_settings(recipe: Recipe, teacher: TeacherFound, rows: RowsFound, notes: Notes) -> None:
    """Settings that are well formed, but do not fit the task or this machine."""
    _metric(recipe, rows, notes)
    _regularisers(recipe, notes)
    _packing(recipe, notes)
    _extra(recipe.training.extra, notes)
    _exports(recipe, notes)
    _packages(recipe, teacher, notes)
    _lora(recipe, notes)
    training = recipe.training
    if training.parallel == "fsdp" and training.precision == "fp16":
        notes.problem(
            ("training", "precision"), '"fp16" does not go with training.parallel: fsdp. Allowed: fp32, bf16.'
        )
    if training.precision == "fp16" and training.device == "cpu":
        notes.problem(
            ("training", "precision"), '"fp16" needs a GPU, but training.device is cpu. Allowed there: fp32, bf16.'
        )
    if rows.plan.labelled is False and recipe.budget.min_retention is not None:
        notes.problem(("budget", "min_retention"), "retention needs labels, and the data has none. Remove this line.")
    if training.control_random and not training.control:
        notes.warn(
            ("training", "control_random"), "it is a second line beside the control, and training.control is off."
        )


def _metric(recipe: Recipe, rows: RowsFound, notes: Notes) -> None:
    if isinstance(recipe.task, CausalLMSpec):
        held_out = sum(rows.plan.rows.get(part) or 0 for part in ("validation", "test"))
        if recipe.task.metric == "exact_match" and held_out > _MANY_ANSWERS:
            told = f"each model writes an answer to {held_out:,} held-out rows, which takes long. Set it to bound them."
            notes.warn(("data", "max_held_out_rows"), told)
        return
    metric, problem = recipe.task.metric, problem_of(recipe.task)
    if metric != "auto" and (metric in _NUMBERS) != (problem == "regression"):
        allowed = "pearson, spearman" if problem == "regression" else "accuracy, macro_f1, micro_f1"
        notes.problem(("task", "metric"), f'"{metric}" does not fit task.problem: {problem}. Allowed: auto, {allowed}.')


def _packing(recipe: Recipe, notes: Notes) -> None:
    packing = recipe.training.packing
    if packing != "auto" and not isinstance(recipe.task, CausalLMSpec):
        notes.problem(
            ("training", "packing"),
            f'"{packing}" is a way to read batches of language models, but task.kind is {recipe.task.kind}. Remove it.',
        )


def _regularisers(recipe: Recipe, notes: Notes) -> None:
    training, is_text = recipe.training, image_size(recipe) is None
    if training.mixup > 0:
        path: Path = ("training", "mixup")
        if is_text:
            notes.problem(path, "mixup mixes images, but the task is on texts. Remove it; token_dropout is for texts.")
        elif not isinstance(recipe.teacher, AskedSpec) or recipe.teacher.signals == "store":
            notes.problem(
                path,
                "the teacher must see each mixed image, a store cannot. Use teacher.kind: local with signals: live.",
            )
    for name in ("token_dropout", "subword_dropout"):
        if getattr(training, name) > 0 and isinstance(recipe.task, CausalLMSpec):
            notes.problem(("training", name), "it changes the tokens that a language model is to tell. Set it to 0.")
        elif getattr(training, name) > 0 and not is_text:
            notes.problem(
                ("training", name),
                "it changes the tokens of texts, but the task is on images. Remove it; mixup is for images.",
            )
    if training.subword_dropout > 0 and any(
        isinstance(o, LayeredSpec) and o.view in BY_TOKEN for o in recipe.objectives
    ):
        notes.problem(
            ("training", "subword_dropout"),
            "it changes the number of tokens, and an objective compares token by token. Remove one.",
        )


def _extra(extra: dict[str, Any], notes: Notes) -> None:
    """Keys of `training.extra` against the fields of TrainingArguments, and those that have a plain name here."""
    fields = training_fields()
    for name, value in extra.items():
        path: Path = ("training", "extra", name)
        if (told := taken(name)) is not None:
            notes.problem(path, told)
        elif fields is not None and name not in fields:
            notes.problem(path, f"TrainingArguments has no such field.{did_you_mean(name, fields)}")
        elif fields is not None and fields[name] == "bool" and not isinstance(value, bool):
            shown = f'"{value}"' if isinstance(value, str) else value
            notes.problem(path, f"{shown} is not allowed. Allowed: true or false.")


def _exports(recipe: Recipe, notes: Notes) -> None:
    seen: set[tuple[str, str]] = set()
    for number, spec in enumerate(recipe.export):
        is_language = isinstance(recipe.task, CausalLMSpec)
        if isinstance(spec, GGUFSpec) and not is_language:
            notes.problem(("export", number, "kind"), f'"gguf" does not fit task.kind: {recipe.task.kind}. Use onnx.')
        if isinstance(spec, WebSpec) and is_language:
            notes.problem(("export", number, "kind"), f'"web" does not fit task.kind: {recipe.task.kind}. Use onnx.')
        if isinstance(spec, OnnxSpec):
            _onnx(spec, number, recipe, notes, is_language=is_language)
        if isinstance(spec, EdgeSpec):
            check_edge(spec, number, recipe, notes)
        if (spec.kind, spec.precision) in seen:
            message = f"{spec.kind} {spec.precision} stands twice; both would be written to one folder. Remove one."
            notes.problem(("export", number), message)
        seen.add((spec.kind, spec.precision))


def _onnx(spec: OnnxSpec, number: int, recipe: Recipe, notes: Notes, *, is_language: bool) -> None:
    """What fits language models only, or all but them."""
    if not is_language and spec.precision in ("fp16", "int4"):
        notes.problem(
            ("export", number, "precision"),
            f'"{spec.precision}" is for language models, not for task.kind: {recipe.task.kind}. Allowed: fp32, int8.',
        )
    if not is_language and spec.min_written is not None:
        notes.problem(("export", number, "min_written"), "only language models write. Remove it.")
    if is_language and spec.calibration_rows != OnnxSpec.model_fields["calibration_rows"].default:
        notes.problem(
            ("export", number, "calibration_rows"),
            "a language model is quantized by its weights alone: nothing is calibrated. Remove it.",
        )


def _lora(recipe: Recipe, notes: Notes) -> None:
    student = recipe.student
    if isinstance(student, FromConfigSpec) or student.lora is None:
        return
    path: Path = ("student", "lora")
    if not isinstance(recipe.task, CausalLMSpec):
        notes.problem(
            path, f"it freezes the head, which a student of task.kind: {recipe.task.kind} has to learn. Remove it."
        )
    if isinstance(student, FromTeacherSpec) and student.init != "teacher":
        notes.problem(path, f"it freezes weights that init: {student.init} draws at random. Use init: teacher.")
    if recipe.training.control_random:
        notes.problem(
            ("training", "control_random"), "student.lora freezes the weights that it draws at random. Set it to false."
        )


def _packages(recipe: Recipe, teacher: TeacherFound, notes: Notes) -> None:
    """Optional packages that the run will need."""
    wanted: list[tuple[Path, str, str, str]] = []
    for number, spec in enumerate(recipe.export):
        path: Path = ("export", number, "kind")
        if isinstance(spec, GGUFSpec):
            wanted.append((path, "gguf", "lm", "export to GGUF"))
            continue
        if isinstance(spec, EdgeSpec):
            wanted += [(path, *needed) for needed in packages_of(spec)]
            continue
        for package in ("onnx", "onnxruntime", "onnxscript"):
            wanted.append((path, package, "onnx", "export to ONNX"))
    if teacher.checkpoint is not None and teacher.checkpoint.is_timm:
        wanted.append((("teacher", "model"), "timm", "vision", "a timm model"))
    if getattr(recipe.student, "lora", None) is not None:
        wanted.append((("student", "lora"), "peft", "lora", "a student with LoRA"))
    if recipe.training.tensorboard:
        wanted.append((("training", "tensorboard"), "tensorboard", "tensorboard", "TensorBoard"))
    told: set[str] = set()
    for path, package, extra, purpose in wanted:
        if package not in told and importlib.util.find_spec(package) is None:
            told.add(package)
            notes.problem(path, str(MissingExtra(package, extra, purpose)))
