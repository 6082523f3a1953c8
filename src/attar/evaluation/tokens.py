"""What language models say of held-out text: surprise at each learned token, distance from the teacher, same choice.

All models are asked about the same rows in one pass, so that the teacher is asked once. Logits are made a block of
tokens at a time and never kept. Shape letters: N rows, R learned tokens of a batch, V tokens of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from attar.errors import TrainingError
from attar.known import Known
from attar.mixture import Told, blocks_of, in_tokens_of, rows_of, width_of
from attar.signals import Wanted, ask
from attar.tasks.base import Processor, Task
from attar.tasks.sequences import Sequences, targets_of
from attar.teachers.scoring import batch_budget, token_batches

TEACHER = "teacher"
_BLOCK = 2**23
"""Logits of a block: 34 MB of float32."""


class Column(NamedTuple):
    """What is kept of each row, as a row of float64 numbers: sums over its learned tokens."""

    tokens: int = 0
    """Learned tokens, as the teacher counts them."""
    nll: int = 1
    """-log p of them all, nats."""
    compared: int = 2
    """Tokens that both the teacher and the model tell one by one."""
    kl: int = 3
    """KL(teacher || model) over these, nats; over the model's tokens (see `Regrouped`)."""
    same: int = 4
    """Of these, those for which both have the same likeliest token."""


COLUMN = Column()


@dataclass(frozen=True)
class Reader:
    """A model, and the rows as it reads them."""

    model: nn.Module
    encoded: Sequences
    processor: Processor
    known: Known | None = None
    """Which of the teacher's outputs it has; None: the same ones."""
    dense: bool = False
    """It only gives whole logits, as an exported file does, and no states that a head would project."""
    alike: bool = True
    """Whether its tokens are the teacher's; those of another tokenizer are not compared one by one."""


def ask_about_rows(
    models: Mapping[str, Reader],
    teacher: Reader,
    task: Task,
    rows: int,
    *,
    batch_tokens: int = 8192,
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """By name, and for `teacher`, float64 [N, 5] in the order of `Column`; `rows` is N. Models keep their mode.

    Raises TrainingError where a model's surprise is not finite, naming the row.
    """
    found = {name: np.zeros((rows, len(COLUMN))) for name in [TEACHER, *models]}
    everyone = [teacher, *models.values()]
    modes = [reader.model.training for reader in everyone]
    for reader in everyone:
        reader.model.to(device).eval()
    partners = {name: _partners(teacher.encoded, reader.encoded) for name, reader in models.items()}
    budget = batch_budget(batch_tokens, device)
    try:
        with torch.inference_mode():
            for chosen in token_batches(teacher.encoded.lengths.astype(float), budget):
                _ask_batch(found, models, partners, teacher, task, chosen, device)
            for name, reader in models.items():
                alone = np.setdiff1d(np.arange(len(reader.encoded)), partners[name])
                for at in token_batches(reader.encoded.lengths[alone].astype(float), budget):
                    ours = _answer(reader, task, alone[at], device)
                    _add(found[name], ours, _surprise(ours), COLUMN.nll)
    finally:
        for reader, mode in zip(everyone, modes, strict=True):
            reader.model.train(mode)
    for name, table in found.items():
        bad = np.flatnonzero(~np.isfinite(table).all(1))
        if len(bad):
            raise TrainingError(
                f"evaluation: the {name} gives row {bad[0]} no finite probability. Look at this row, or lower "
                "training.learning_rate."
            )
    return found


def _partners(theirs: Sequences, ours: Sequences) -> np.ndarray:
    """For each of the teacher's sequences the model's of the same row and place, int64; -1 where a row has not become
    equally many on both sides.
    """
    rows = int(max(theirs.owners.max(initial=-1), ours.owners.max(initial=-1))) + 1
    counts = [np.bincount(side.owners, minlength=rows) for side in (theirs, ours)]
    starts = [np.cumsum(count) - count for count in counts]
    place = np.arange(len(theirs)) - starts[0][theirs.owners]
    return np.where((counts[0] == counts[1])[theirs.owners], starts[1][theirs.owners] + place, -1)


class _Answer(NamedTuple):
    """One model's answer to a batch."""

    logits: Told
    labels: Tensor
    owners: np.ndarray
    sequences: np.ndarray


def _ask_batch(
    found: Mapping[str, np.ndarray],
    models: Mapping[str, Reader],
    partners: Mapping[str, np.ndarray],
    teacher: Reader,
    task: Task,
    chosen: np.ndarray,
    device: str,
) -> None:
    theirs = _answer(teacher, task, chosen, device)
    for table in found.values():
        np.add.at(table[:, COLUMN.tokens], theirs.owners, 1.0)
    _add(found[TEACHER], theirs, _surprise(theirs), COLUMN.nll)
    for column in (COLUMN.compared, COLUMN.same):
        np.add.at(found[TEACHER][:, column], theirs.owners, 1.0)
    for name, reader in models.items():
        partner = partners[name][chosen]
        there = np.flatnonzero(partner >= 0)
        if not len(there):
            continue
        ours = _answer(reader, task, partner[there], device)
        _add(found[name], ours, _surprise(ours), COLUMN.nll)
        if not reader.alike:
            continue
        alike = _alike(ours, theirs, there, len(chosen), reader.known)
        one, other = alike[ours.sequences], np.isin(theirs.sequences, there[alike])
        kl, same = _compared(ours, theirs, one, other, reader.known)
        owners = ours.owners[one]
        for column, values in ((COLUMN.compared, np.ones(len(owners))), (COLUMN.kl, kl), (COLUMN.same, same)):
            np.add.at(found[name][:, column], owners, values)


def _alike(ours: _Answer, theirs: _Answer, there: np.ndarray, sequences: int, known: Known | None) -> np.ndarray:
    """Which of the model's sequences have the teacher's tokens, one by one: bool, one for each of `there`."""
    counts = [np.bincount(side.sequences, minlength=sequences) for side in (theirs, ours)]
    alike = counts[0][there] == counts[1][: len(there)]
    one, other = alike[ours.sequences], np.isin(theirs.sequences, there[alike])
    ids = ours.labels if known is None else known.outputs.to(ours.labels.device)[ours.labels]
    wrong = (ids.cpu().numpy()[one] != theirs.labels.cpu().numpy()[other]).nonzero()[0]
    alike[np.unique(ours.sequences[one][wrong])] = False
    return alike


def _answer(reader: Reader, task: Task, chosen: np.ndarray, device: str) -> _Answer:
    inputs = {key: value.to(device) for key, value in task.batch(reader.encoded, chosen, reader.processor).items()}
    targets = targets_of(reader.encoded, chosen)
    positions = torch.from_numpy(targets.positions).to(device)
    said: Told | None
    if reader.dense:
        said = cast("Tensor", reader.model(**inputs).logits).flatten(0, 1)[positions]
    else:
        said = ask(reader.model, inputs, Wanted(), positions).logits
    assert said is not None, "logits are wanted"
    owners = reader.encoded.owners[chosen][targets.sequences]
    return _Answer(said, torch.from_numpy(targets.labels).to(device), owners, targets.sequences)


def _blocks(count: int, width: int) -> list[slice]:
    step = max(_BLOCK // max(width, 1), 1)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _surprise(answer: _Answer) -> np.ndarray:
    """-log p of each learned token, float64 [R]."""
    found: list[Tensor] = []
    head = blocks_of(answer.logits)
    for block in _blocks(len(answer.labels), width_of(answer.logits)):
        logits = head.block(block)
        found.append(logits.logsumexp(-1) - logits.gather(1, answer.labels[block, None]).squeeze(1))
    return torch.cat(found).double().cpu().numpy() if found else np.zeros(0)


def _compared(
    ours: _Answer, theirs: _Answer, one: np.ndarray, other: np.ndarray, known: Known | None
) -> tuple[np.ndarray, np.ndarray]:
    """KL to the teacher, and whether both choose the same token, of the tokens that both tell: float64 [R] each."""
    student = rows_of(ours.logits, torch.from_numpy(np.flatnonzero(one)).to(ours.labels.device))
    teacher = rows_of(theirs.logits, torch.from_numpy(np.flatnonzero(other)).to(ours.labels.device))
    kl: list[Tensor] = []
    same: list[Tensor] = []
    widest = max(width_of(student), width_of(teacher))
    heads = blocks_of(student), blocks_of(teacher if known is None else in_tokens_of(teacher, known))
    for block in _blocks(len(student), widest):
        q, p = (head.block(block).log_softmax(-1) for head in heads)
        same.append(q.argmax(-1) == p.argmax(-1))
        kl.append((p.exp() * (p - q)).sum(-1))
    if not kl:
        return np.zeros(0), np.zeros(0)
    return tuple(torch.cat(part).double().cpu().numpy() for part in (kl, same))  # pyright: ignore[reportReturnType]


def _add(table: np.ndarray, answer: _Answer, values: np.ndarray, column: int) -> None:
    np.add.at(table[:, column], answer.owners, values)
