"""The recipe's `training` section as Transformers' TrainingArguments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from attar.errors import MissingExtra, RecipeError
from attar.recipe.training import TrainingSpec

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
_LOGGED = 100
"""Points of a training curve."""


def total_steps(spec: TrainingSpec, rows: int) -> int:
    """Optimiser steps of a whole training."""
    per_epoch = math.ceil(math.ceil(rows / spec.batch_size) / spec.accumulate)
    return spec.max_steps or max(1, math.ceil(spec.epochs * per_epoch))


def arguments(spec: TrainingSpec, steps: int, out: Path) -> TrainingArguments:
    """TrainingArguments for `steps` steps. Raises RecipeError for an unknown `extra`, MissingExtra for TensorBoard."""
    if spec.tensorboard:
        try:
            import tensorboard  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
        except ImportError:
            raise MissingExtra("tensorboard", "tensorboard", "training.tensorboard") from None
    cpu = spec.device == "cpu" or (spec.device == "auto" and not torch.cuda.is_available())
    if spec.device.startswith("cuda:"):
        torch.cuda.set_device(int(spec.device.split(":")[1]))
    owned: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": steps,
        "per_device_train_batch_size": spec.batch_size,
        "gradient_accumulation_steps": spec.accumulate,
        "learning_rate": spec.learning_rate,
        "weight_decay": spec.weight_decay,
        "warmup_steps": math.ceil(spec.warmup * steps),
        "lr_scheduler_type": _SCHEDULES[spec.schedule],
        "max_grad_norm": spec.clip,
        "seed": spec.seed,
        "use_cpu": cpu,
        "bf16": spec.precision == "bf16",
        "fp16": spec.precision == "fp16",
        "logging_strategy": "steps",
        "logging_steps": max(1, steps // _LOGGED),
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps",
        "eval_steps": max(1, steps // spec.evaluations),
        "save_strategy": "steps" if spec.checkpoints else "no",
        "save_steps": max(1, math.ceil(steps / max(1, spec.checkpoints))),
        "save_total_limit": 2,
        "report_to": ["tensorboard"] if spec.tensorboard else "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": not cpu,
    }
    try:
        return TrainingArguments(**{**owned, **spec.extra})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"training.extra: {error}. Allowed: fields of transformers.TrainingArguments.") from error
