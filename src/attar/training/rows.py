"""Rows to train on and how they become batches: the same order for student and control, decided by seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from attar.signals import Signals, Wanted
from attar.tasks.base import Encoded, Processor, Task

Batch = dict[str, Any]
_POOL = 50
"""Batches' worth of shuffled rows that are sorted by length together."""


class SignalReader(Protocol):
    """Stored signals, by row number of the training rows."""

    def read(self, rows: np.ndarray) -> Signals:
        """Signals of some rows."""
        ...


@dataclass(frozen=True)
class LiveTeacher:
    """A teacher that is asked in every step, with its own view of the same rows."""

    model: nn.Module
    encoded: Encoded
    processor: Processor
    wanted: Wanted


@dataclass(frozen=True)
class TrainingRows:
    """What is trained on. `student.labels` are those to train on, -100 or NaN where a row has none.

    One of `signals` and `live` where the objectives read the teacher; neither for the control.
    """

    student: Encoded
    processor: Processor
    signals: SignalReader | None = None
    live: LiveTeacher | None = None

    def __len__(self) -> int:
        return len(self.student)


class RowNumbers(Dataset[int]):
    """The numbers 0..N-1: a batch's rows are gathered by the collator, all at once."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> int:
        return row


class LengthGroups(Sampler[list[int]]):
    """Shuffled batches of rows of similar length. The order depends on seed and epoch alone, so a resumed run repeats it.

    Rows are shuffled, cut into pools of 50 batches, sorted by length within a pool, and the batches shuffled again.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        width = _POOL * self.batch_size
        pools = [order[i : i + width] for i in range(0, len(order), width)]
        order = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        starts = np.arange(0, len(order), self.batch_size)
        for start in rng.permutation(starts):
            yield order[start : start + self.batch_size].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass is for."""
        self.epoch = epoch


class Collator:
    """Row numbers to a batch: the student's view, the teacher's view or stored signals, labels, and mixup's partners.

    Random choices (token dropout, mixup) are drawn from seed, epoch and the batch's rows, never from global state.
    """

    def __init__(self, rows: TrainingRows, task: Task, sampler: LengthGroups, token_dropout: float, mixup: float) -> None:
        self.rows, self.task, self.sampler = rows, task, sampler
        self.token_dropout, self.mixup = token_dropout, mixup
        self._special = np.array(sorted(getattr(rows.processor, "all_special_ids", ())), dtype=np.int64)

    def __call__(self, chosen: Sequence[int]) -> Batch:
        """One micro-batch: nested dicts of tensors."""
        rng = np.random.default_rng([self.sampler.seed, self.sampler.epoch, *(int(row) for row in chosen[:4])])
        view = _take(self.rows.student, chosen)
        if self.token_dropout > 0:
            view = self._drop_tokens(view, rng)
        every = range(len(chosen))
        batch: Batch = {
            "student": self.task.batch(view, every, self.rows.processor),
            "labels": torch.from_numpy(np.ascontiguousarray(view.labels)),
        }
        if self.rows.signals is not None:
            signals = self.rows.signals.read(np.asarray(chosen))
            batch["signals"] = {"logits": signals.logits, "hidden": signals.hidden, "mask": signals.mask}
        if self.rows.live is not None:
            live = self.rows.live
            batch["teacher"] = self.task.batch(_take(live.encoded, chosen), every, live.processor)
        return batch if self.mixup == 0 else _mixed(batch, float(rng.beta(self.mixup, self.mixup)), rng)

    def _drop_tokens(self, view: Encoded, rng: np.random.Generator) -> Encoded:
        """Take a share of the tokens out of every text; special tokens stay, and each text keeps at least one other."""
        ids = view.inputs["input_ids"]
        keeps: list[np.ndarray] = []
        for row in ids:
            special = np.isin(row, self._special)
            keep = special | (rng.random(len(row)) >= self.token_dropout)
            if keep.sum() == special.sum():
                keep = np.ones(len(row), dtype=bool)
            keeps.append(keep)
        inputs: dict[str, Any] = {
            name: [value[keep] for value, keep in zip(values, keeps, strict=True)]
            for name, values in view.inputs.items()
        }
        return replace(view, inputs=inputs, lengths=np.array([keep.sum() for keep in keeps]))


def _take(encoded: Encoded, rows: Sequence[int]) -> Encoded:
    inputs: dict[str, Any] = {
        name: values[np.asarray(rows)] if isinstance(values, np.ndarray) else [values[row] for row in rows]
        for name, values in encoded.inputs.items()
    }
    chosen = np.asarray(rows)
    return Encoded(inputs, encoded.lengths[chosen], encoded.labels[chosen])


def _mixed(batch: Batch, share: float, rng: np.random.Generator) -> Batch:
    """Mixup (arXiv:1710.09412): both views are mixed alike, so the teacher answers to what the student sees."""
    partner = torch.from_numpy(rng.permutation(len(batch["labels"])))

    def mix(pixels: Tensor) -> Tensor:
        return share * pixels + (1 - share) * pixels[partner]

    mixed: Batch = {**batch, "partner_labels": batch["labels"][partner], "share": share}
    for side in ("student", "teacher"):
        if side in batch:
            mixed[side] = {name: mix(value) for name, value in batch[side].items()}
    return mixed
