"""The recipe's `training` section as Transformers' TrainingArguments.

Logging, evaluation and checkpoints are switched by our own callback, so Transformers' strategies for them are off.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from attar.devices import device_of
from attar.errors import MissingExtra, PlanError, RecipeError, TrainingError
from attar.precision import computed_in
from attar.ranks import world
from attar.recipe.names import taken
from attar.recipe.nearest import did_you_mean
from attar.recipe.training import TrainingSpec
from attar.training.rows import steps_per_epoch

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
_LOGGED = 200
"""Points of a training curve, about."""


def total_steps(spec: TrainingSpec, rows: int) -> int:
    """Optimiser steps of a whole training."""
    an_epoch = steps_per_epoch(rows, batch_size=spec.batch_size, accumulate=spec.accumulate, world=world())
    return spec.max_steps or max(1, math.ceil(spec.epochs * an_epoch))


def log_every(spec: TrainingSpec, steps: int) -> int:
    """Steps from one log line to the next: `extra.logging_steps` (a share of all steps, if below 1), or 200 lines."""
    wished = spec.extra.get("logging_steps")
    if isinstance(wished, int | float) and wished > 0:
        return max(1, math.ceil(wished * steps) if wished < 1 else int(wished))
    return max(1, steps // _LOGGED)


def training_arguments(spec: TrainingSpec, steps: int, out: Path) -> TrainingArguments:
    """Arguments for `steps` steps with checkpoints in `out`.

    Raises RecipeError with every key of `extra` that is unknown or has a plain name, PlanError for a device or
    precision that is not there, MissingExtra where TensorBoard is wished for and absent, and TrainingError where
    torchrun's processes do not find each other.
    """
    _check_extra(spec.extra)
    if spec.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", "tensorboard", "training.tensorboard")
    device = device_of(spec.device)
    _check_parallel(spec)
    if spec.precision == "fp16" and device == "cpu":
        raise PlanError(
            'training.precision: "fp16" needs a GPU, and training runs on the CPU. Allowed there: fp32, bf16.'
        )
    precision = computed_in(spec.precision, device)
    fields: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": steps,
        "per_device_train_batch_size": spec.batch_size,
        "gradient_accumulation_steps": spec.accumulate,
        "learning_rate": spec.learning_rate,
        "weight_decay": spec.weight_decay,
        "warmup_steps": math.ceil(spec.warmup * steps),
        "lr_scheduler_type": _SCHEDULES[spec.schedule],
        "max_grad_norm": spec.clip,
        "seed": spec.seed % 2**32,
        "use_cpu": device == "cpu",
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": device.startswith("cuda"),
        **spec.extra,
    }
    try:
        made = TrainingArguments(**fields)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"training: TrainingArguments refuses it: {error}") from error
    _place(made, device)
    return made


def _check_parallel(spec: TrainingSpec) -> None:
    """What is asked of several processes must be what they do."""
    if world() == 1:
        if spec.parallel == "fsdp":
            raise PlanError(
                'training.parallel: "fsdp" shards weights over processes, and there is one. Start several with '
                "torchrun --nproc_per_node N -m attar distill RECIPE, or remove this line."
            )
    elif ":" in spec.device:
        raise PlanError(
            f'training.device: "{spec.device}" is one GPU, but torchrun gives each process its own. Use auto or cuda.'
        )


def _check_extra(extra: dict[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
    problems: list[str] = []
    for name in extra:
        if (told := taken(name)) is not None:
            problems.append(f"training.extra.{name}: {told}")
        elif name not in known:
            problems.append(f"training.extra.{name}: TrainingArguments has no such field.{did_you_mean(name, known)}")
    if problems:
        raise RecipeError(problems)


def _place(made: TrainingArguments, device: str) -> None:
    """Hold Transformers to one device a process: several visible GPUs would become DataParallel, cuda:N would be 0."""
    if made.world_size != world():
        raise TrainingError(
            f"torchrun started {world()} processes, but training sees {made.world_size}. Start it with torchrun, "
            "without settings of accelerate."
        )
    if device.startswith("cuda") and made.world_size == 1:
        made._n_gpu = 1  # pyright: ignore[reportPrivateUsage]
        chosen = torch.device("cuda", int(device.partition(":")[2] or 0))
        torch.cuda.set_device(chosen)
        made.__dict__["_setup_devices"] = chosen
