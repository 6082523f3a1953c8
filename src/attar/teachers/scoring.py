"""Asking a model for signals on many rows: batches by length and tokens, and a check that every number is finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from attar.errors import TeacherError
from attar.signals import Signals, Wanted, ask
from attar.tasks.base import Encoded, Processor, Task

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many of it, and how many there are."""

_LARGEST_BATCH = 1024
_CPU_TOKENS = 1024
"""A CPU is fastest while a batch's activations stay in its cache: MiniLM reads 1.5 times as many rows a second with
1,024 tokens a batch as with 8,192 (one thread, 1,024 rows of banking77)."""


def row_costs(encoded: Encoded) -> np.ndarray:
    """float64 [N]: what a row costs a batch; tokens for text, thousands of pixels for images."""
    pixels = encoded.inputs.get("pixel_values")
    if isinstance(pixels, np.ndarray):
        return np.full(len(encoded), pixels.shape[-1] * pixels.shape[-2] / 1000)
    return encoded.lengths.astype(np.float64)


def batch_budget(batch_tokens: int, device: str) -> int:
    """Tokens (thousands of pixels) a batch on a device: what is allowed, or less where less is faster."""
    return min(batch_tokens, _CPU_TOKENS) if device == "cpu" else batch_tokens


def token_batches(costs: np.ndarray, budget: float) -> Iterator[np.ndarray]:
    """Positions in `costs`, longest first, in batches whose rows times the longest row stay within `budget`.

    A row that is over the budget alone makes a batch of its own. Longest first: what does not fit memory fails at once.
    """
    order = np.argsort(-costs, kind="stable")
    start = 0
    while start < len(order):
        fits = int(budget // max(costs[order[start]], 1e-9))
        stop = start + min(max(fits, 1), _LARGEST_BATCH)
        yield order[start:stop]
        start = stop


def length_groups(lengths: np.ndarray, batch_size: int, rng: np.random.Generator, pool: int = 50) -> list[np.ndarray]:
    """Shuffled training batches of rows of like length: pools of `pool` batches are sorted, batches shuffled again."""
    shuffled = rng.permutation(len(lengths))
    groups: list[np.ndarray] = []
    for start in range(0, len(shuffled), batch_size * pool):
        part = shuffled[start : start + batch_size * pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        groups += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    if len(groups) > 1 and len(groups[-1]) == 1:  # batch normalisation cannot train on one row
        lone = groups.pop()
        groups[-1] = np.concatenate([groups[-1], lone])
    return [groups[i] for i in rng.permutation(len(groups))]


def score_batch(
    model: nn.Module,
    task: Task,
    encoded: Encoded,
    rows: np.ndarray | Sequence[int],
    processor: Processor,
    wanted: Wanted,
    *,
    device: str = "cpu",
    split: str = "data",
) -> Signals:
    """Signals of some rows, float32 on the CPU, no gradients. Raises TeacherError that names a row with NaN or inf."""
    inputs = task.batch(encoded, rows, processor)
    for name, value in inputs.items():
        _check_finite(value, rows, split, f"input `{name}` has")
    with torch.no_grad():
        signals = ask(model, {name: value.to(device) for name, value in inputs.items()}, wanted)
    logits = None if signals.dense_logits is None else signals.dense_logits.float().cpu()
    hidden = {key: value.float().cpu() for key, value in signals.hidden.items()}
    if logits is not None:
        _check_finite(logits, rows, split, "the teacher's logits have")
    for key, value in hidden.items():
        _check_finite(value, rows, split, f"the teacher's hidden state {key.layer} has")
    return Signals(logits, hidden, signals.mask)


def score_rows(
    model: nn.Module,
    task: Task,
    encoded: Encoded,
    processor: Processor,
    wanted: Wanted,
    *,
    batch_tokens: int = 8192,
    device: str = "cpu",
    split: str = "data",
    rows: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Signals of many rows (`rows` None: all), in their order: `logits` [n, C], `hidden:LAYER:POOL` [n, D], float32.

    `progress` is called with the rows of each finished batch. Raises TeacherError as `score_batch` does.
    """
    chosen = np.arange(len(encoded)) if rows is None else rows
    gathered: dict[str, np.ndarray] = {}
    for batch in token_batches(row_costs(encoded)[chosen], batch_budget(batch_tokens, device)):
        signals = score_batch(model, task, encoded, chosen[batch], processor, wanted, device=device, split=split)
        for name, value in named(signals).items():
            if name not in gathered:
                gathered[name] = np.empty((len(chosen), value.shape[1]), dtype=np.float32)
            gathered[name][batch] = value.numpy()
        if progress is not None:
            progress(len(batch))
    return gathered


def check_classes(logits: np.ndarray | Tensor, task: Task, name: str) -> None:
    """Raise TeacherError where logits are not [N, C] for the task's C labels."""
    if logits.ndim != 2 or logits.shape[1] != len(task.labels):
        raise TeacherError(
            f"{name}: answers with logits of shape {tuple(logits.shape)}; the task has {len(task.labels)} labels, so "
            f"[rows, {len(task.labels)}] is needed. Use a model with a head for this task, or `teacher.fit: probe`."
        )


def named(signals: Signals) -> dict[str, Tensor]:
    """Signals under the names that a store gives them."""
    logits = {} if signals.dense_logits is None else {"logits": signals.dense_logits}
    return {**logits, **{f"hidden:{key.layer}:{key.pool}": value for key, value in signals.hidden.items()}}


def _check_finite(value: Tensor, rows: np.ndarray | Sequence[int], split: str, what: str) -> None:
    if not value.is_floating_point() or bool(torch.isfinite(value).all()):
        return
    bad = ~torch.isfinite(value.flatten(1)).all(1)
    row = int(cast("int", rows[int(bad.nonzero()[0, 0])]))
    raise TeacherError(
        f"{split} row {row}: {what} NaN or infinite values. Look at this row, and at the teacher's weights; a teacher "
        "in "
        "half precision may overflow."
    )
