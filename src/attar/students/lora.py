"""LoRA (arXiv:2106.09685), by peft: small matrices are learned beside frozen weights, and added to them at the end.

The head is frozen with the rest, so that a language model's loss makes no gradient of it: no product of the size of
the vocabulary. At birth the matrices add nothing: the student is the one that it would be without.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from attar.errors import MissingExtra, PlanError
from attar.recipe.nearest import listed
from attar.recipe.student import LoraSpec
from attar.students.student import Student, seeded

ADAPTER = "adapter"
"""Folder of the matrices beside the plain weights that hold their sum."""


def adapt(student: Student, spec: LoraSpec, seed: int) -> Student:
    """The same student with its weights frozen and matrices beside those that `spec.targets` names, drawn from `seed`.

    `initial` says how many parameters are learned. Raises MissingExtra without peft, and PlanError where a target is
    the head or no linear layer.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra("peft", "lora", "student.lora") from error
    model = cast("PreTrainedModel", student.model)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=spec.rank, lora_alpha=cast("Any", spec.alpha), lora_dropout=spec.dropout,
        target_modules=_targets(model, spec.targets), bias="none",
    )  # fmt: skip
    with seeded(seed), _quiet():
        adapted = cast("nn.Module", get_peft_model(model, config))
    learned = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return Student(adapted, student.processor, {**student.initial, "lora_parameters": learned})


def merge(adapted: nn.Module, folder: Path) -> nn.Module:
    """Write the matrices to `folder`, as peft reads them, and give back the plain model with them added."""
    wrapper = cast("Any", adapted)
    with _quiet():
        wrapper.save_pretrained(folder, save_embedding_layers=False)
        return wrapper.merge_and_unload()


def _targets(model: PreTrainedModel, wished: tuple[str, ...] | None) -> list[str]:
    head = model.get_output_embeddings()
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head]
    ends = sorted({name.rpartition(".")[2] for name in linear})
    if wished is None:
        return ends
    unknown = [target for target in wished if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if unknown:
        raise PlanError(
            f"student.lora.targets: {listed(unknown)} names no linear layer of {type(model).__name__} besides its "
            f"head, which stays as it is. Allowed: {listed(ends)}."
        )
    return list(wished)


@contextmanager
def _quiet() -> Generator[None]:
    """Without peft's use of what Transformers calls deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
