"""`training.quantization` against the exports it is for, and against what changes a student's weights otherwise."""

from __future__ import annotations

from attar.plan.notes import Notes
from attar.recipe import Recipe
from attar.recipe.outcome import ExportSpec, GGUFSpec
from attar.recipe.places import Path
from attar.recipe.task import CausalLMSpec

_HERE: Path = ("training", "quantization")
_PRECISION: Path = (*_HERE, "precision")
_KINDS = {"int8": "onnx", "int4": "onnx", "q8_0": "gguf", "q4_0": "gguf"}
"""An export that has the precision, to be named in advice."""
_FLOAT = ("fp32", "fp16", "f16")


def check_quantization(recipe: Recipe, notes: Notes) -> None:
    """Whether a quantization-aware training trains for a file that comes, and with weights that it can round."""
    spec = recipe.training.quantization
    if spec is None:
        return
    if not isinstance(recipe.task, CausalLMSpec) and spec.precision != "int8":
        notes.problem(
            _PRECISION,
            f'"{spec.precision}" is for language models, not for task.kind: {recipe.task.kind} (4 bits would leave '
            "convolutions as they are). Use int8.",
        )
    elif not _served(recipe):
        advice = f"{{kind: {_KINDS[spec.precision]}, precision: {spec.precision}}}"
        notes.problem(
            _PRECISION,
            f"no export has the precision {spec.precision} as onnx, web or gguf, so no file would have what is trained "
            f"for. Add {advice} to export, or remove training.quantization.",
        )
    for number, other in enumerate(recipe.export):
        if other.precision not in (*_FLOAT, spec.precision):
            notes.warn(
                ("export", number, "precision"),
                f"the student is trained for {spec.precision}; in {other.precision} it is rounded anew.",
            )
    _refuse(recipe, notes)


def told(recipe: Recipe) -> str:
    """What a check says of it; empty where the training is not quantization-aware."""
    spec = recipe.training.quantization
    if spec is None:
        return ""
    since = f"after {spec.start:.0%} of the steps" if spec.start else "from the first step"
    return f"{spec.precision} {since}, for {', '.join(_served(recipe))}"


def _served(recipe: Recipe) -> list[str]:
    """The exports that have what is trained for."""
    spec = recipe.training.quantization
    return [
        f"{e.kind}-{e.precision}" for e in recipe.export if spec and e.precision == spec.precision and _is_rounded(e)
    ]


def _is_rounded(export: ExportSpec) -> bool:
    """Whether it is one of the formats whose rounding the training knows."""
    return isinstance(export, GGUFSpec) or export.kind in ("onnx", "web")


def _refuse(recipe: Recipe, notes: Notes) -> None:
    training, rollouts = recipe.training, recipe.rollouts
    if getattr(recipe.student, "lora", None) is not None:
        notes.problem(
            _HERE,
            "with student.lora the frozen weights would be rounded, not their sum with the learned matrices, which is "
            "what is exported. Remove one.",
        )
    if training.parallel == "fsdp":
        notes.problem(
            _HERE, "with training.parallel: fsdp no process holds whole matrices, whose ranges count. Use ddp."
        )
    if training.activation_checkpointing:
        notes.problem(
            _HERE,
            "with training.activation_checkpointing layers run again after the rounded numbers are gone. Set it to "
            "false; a smaller training.batch_size with more training.accumulate needs less memory, too.",
        )
    if training.extra.get("torch_compile"):
        notes.problem(_HERE, "compiled code does not see hooks, which round. Remove training.extra.torch_compile.")
    if rollouts is not None and rollouts.source == "student" and rollouts.fraction:
        notes.problem(
            _HERE,
            "with rollouts the student would write as it is before it is rounded. Remove one, or use rollouts.source: "
            "vllm.",
        )
