"""Exports for devices against the task: what each runtime takes, and the packages that make its file."""

from __future__ import annotations

from collections.abc import Iterator

from attar.plan.notes import Notes
from attar.recipe import Recipe
from attar.recipe.outcome import CoreMLSpec, EdgeSpec, ExecuTorchSpec, LiteRTSpec
from attar.recipe.places import Path
from attar.recipe.task import CausalLMSpec, ImageClassificationSpec

_NAMES = {"openvino": "OpenVINO", "litert": "LiteRT", "executorch": "ExecuTorch", "coreml": "Core ML"}
_PACKAGES = {
    "openvino": (("onnx", "onnxscript", "openvino"), ("nncf",)),
    "litert": (("litert_torch", "ai_edge_litert"), ("ai_edge_quantizer",)),
    "executorch": (("executorch",), ("torchao",)),
    "coreml": (("coremltools",), ()),
}
"""By kind, which is also the extra's name: what every file needs, and what int8 needs besides."""


def check_edge(spec: EdgeSpec, number: int, recipe: Recipe, notes: Notes) -> None:
    """What the runtime of `spec` does not take."""
    path: Path = ("export", number)
    if isinstance(recipe.task, CausalLMSpec):
        notes.problem(
            (*path, "kind"), f'"{spec.kind}" is for classifiers, not for task.kind: causal_lm. Use onnx or gguf.'
        )
        return
    most = None if isinstance(recipe.task, ImageClassificationSpec) else recipe.task.max_length
    if isinstance(spec, CoreMLSpec) and most is not None:
        notes.problem(
            (*path, "kind"),
            '"coreml" is for images: coremltools cannot convert students of texts (docs/edge.md). Use executorch or '
            "onnx, which run on iOS, too.",
        )
    if isinstance(spec, ExecuTorchSpec) and spec.precision == "int8" and most is not None:
        notes.problem(
            (*path, "precision"),
            '"int8" of executorch is for convolutional nets: its quantizer fails on transformers (docs/edge.md). Use '
            "precision: fp32, or int8 of litert, openvino or onnx.",
        )
    if isinstance(spec, LiteRTSpec | ExecuTorchSpec) and spec.length is not None:
        if most is None:
            notes.problem((*path, "length"), "it is a number of tokens, but the task is on images. Remove it.")
        elif spec.length > most:
            notes.problem(
                (*path, "length"),
                f"{spec.length} tokens, but texts are cut at task.max_length: {most}. Remove it.",
            )


def packages_of(spec: EdgeSpec) -> Iterator[tuple[str, str, str]]:
    """Module, extra and purpose of each package that the export needs."""
    always, for_int8 = _PACKAGES[spec.kind]
    for module in (*always, *(for_int8 if spec.precision == "int8" else ())):
        yield module, spec.kind, f"export to {_NAMES[spec.kind]}"
