"""`fit: full`: train a whole model on the labels. A plain loop: AdamW, batches by length, exact resume by epoch."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.errors import TrainingError
from attar.recipe.teacher import FittingSpec
from attar.storage import atomic_write
from attar.tasks.base import Encoded, Problem, Processor, Task
from attar.teachers.origin import read_pickle
from attar.teachers.quality import has_label
from attar.teachers.scoring import Progress, length_groups

_CLIP = 1.0
"""Largest gradient norm."""


def finetune(
    model: nn.Module,
    head: nn.Module | None,
    task: Task,
    train: Encoded,
    processor: Processor,
    spec: FittingSpec,
    *,
    checkpoint: Path,
    key: str,
    prepare: Callable[[], object] | None,
    evaluate: Callable[[], float | None],
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place and return a point an epoch: epoch, loss, validation.

    `head`: the part that learns at `head_learning_rate`. `prepare` is called before the first epoch, not on resume.
    After each epoch everything is written to `checkpoint`, under `key` (the hash of all that shapes the training); a
    later call with the same key goes on from there, to the same weights. Raises TrainingError on a loss that is not
    finite.
    """
    optimizer = _optimizer(model, head, spec)
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    rows = np.flatnonzero(has_label(train.labels, task.problem))
    steps_an_epoch = math.ceil(len(rows) / spec.batch_size)
    total = steps_an_epoch * spec.epochs
    curve = _resume(checkpoint, key, model, optimizer)
    if not curve and prepare is not None:
        prepare()
    for epoch in range(len(curve), spec.epochs):
        torch.manual_seed(spec.seed * 1_000_003 + epoch)
        rng = np.random.default_rng([spec.seed, epoch])
        model.train()
        summed, step = 0.0, epoch * steps_an_epoch
        for group in length_groups(train.lengths[rows], spec.batch_size, rng):
            factor = schedule_factor(step / total, spec)
            for parameters, peak in zip(optimizer.param_groups, peaks, strict=True):
                parameters["lr"] = peak * factor
            summed += _step(model, task, train, rows[group], processor, spec, optimizer, device) * len(group)
            step += 1
            if progress is not None:
                progress("fitting the teacher", min(step, total), total)
        model.eval()
        found = evaluate()
        point = {"epoch": epoch + 1.0, "loss": summed / len(rows)}
        curve.append(point if found is None else {**point, "validation": found})
        if epoch + 1 < spec.epochs:
            _keep(checkpoint, key, model, optimizer, curve)
    model.eval()
    return curve


def schedule_factor(done: float, spec: FittingSpec) -> float:
    """Learning rate as a share of its peak, after `done` (0..1) of all steps."""
    if done < spec.warmup:
        return (done + 1e-3) / (spec.warmup + 1e-3)
    left = (1 - done) / max(1 - spec.warmup, 1e-9)
    match spec.schedule:
        case "linear":
            return left
        case "cosine":
            return 0.5 * (1 - math.cos(math.pi * left))
        case "constant":
            return 1.0


def training_loss(logits: Tensor, labels: Tensor, problem: Problem, smoothing: float) -> Tensor:
    """Mean loss of logits [N, C] over the labels that are there."""
    match problem:
        case "single_label":
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        case "multi_label":
            known = ~labels.isnan()
            targets = labels[known] * (1 - smoothing) + 0.5 * smoothing
            return F.binary_cross_entropy_with_logits(logits[known], targets)
        case "regression":
            return F.mse_loss(logits[:, 0], labels)


def _step(
    model: nn.Module,
    task: Task,
    train: Encoded,
    rows: np.ndarray,
    processor: Processor,
    spec: FittingSpec,
    optimizer: torch.optim.Optimizer,
    device: str,
) -> float:
    inputs = {name: value.to(device) for name, value in task.batch(train, rows, processor).items()}
    labels = torch.from_numpy(train.labels[rows]).to(device)
    loss = training_loss(model(**inputs).logits, labels, task.problem, spec.label_smoothing)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"fitting the teacher: the loss is {value} (first row of the batch: train row {int(rows[0])}). Lower "
            "`teacher.fitting.learning_rate`, or look for rows that are not like the others. Finished epochs are kept."
        )
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
    optimizer.step()
    return value


def _optimizer(model: nn.Module, head: nn.Module | None, spec: FittingSpec) -> torch.optim.AdamW:
    """AdamW; no decay for biases and norms; the head at its own rate."""
    own = {id(p) for p in head.parameters()} if head is not None else set[int]()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        rate = spec.head_learning_rate or spec.learning_rate if id(parameter) in own else spec.learning_rate
        decay = spec.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()], fused=True
    )


def _keep(
    checkpoint: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer, curve: list[dict[str, float]]
) -> None:
    content = {"key": key, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "curve": curve}
    stream = io.BytesIO()
    torch.save(content, stream)
    atomic_write(checkpoint, stream.getvalue())


def _resume(checkpoint: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Restore the last finished epoch of the same training; returns its curve, empty where there is none."""
    if not checkpoint.is_file():
        return []
    content: dict[str, Any] = read_pickle(checkpoint)
    if content["key"] != key:
        return []
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    return content["curve"]
