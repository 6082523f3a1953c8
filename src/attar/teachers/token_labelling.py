"""Labelling of language models: the teacher reads each sequence once, and what it says of learned tokens is stored.

Only places before learned tokens are projected, a few at a time, and what is said of them is cut down before the next
ones are projected: no more than a block of logits is ever held. What is drawn at random hangs on the sequence's tokens
and the token's place among them, so that batches, and a run that was killed, change nothing. Shape letters: R learned
tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from attar.errors import TeacherError
from attar.known import Known
from attar.mixture import Told, blocks_of, width_of
from attar.precision import as_in_training, rounded_products
from attar.signals import Wanted, ask
from attar.tasks.base import Task
from attar.tasks.sequences import Sequences, targets_of
from attar.teachers.labelling import MOST_SHARDS, Piece, Tell, fill
from attar.teachers.local import LocalTeacher
from attar.teachers.manifest import TOKENS, Manifest
from attar.teachers.scoring import Progress, batch_budget, token_batches
from attar.teachers.shards import ShardFacts
from attar.teachers.token_codec import Draws, Lists
from attar.teachers.token_shards import row_starts, write_token_shard
from attar.teachers.token_store import TokenStore, merged

_BLOCK = 2**20
"""Logits of a block: 4 MB of float32; some ten times as much is held for a moment while it is cut down."""
_SHARD = 2**16
"""Tokens of a shard at most, while these make few enough files: 2.5 MB on disk, some 200 MB while it is packed."""


class Form(Protocol):
    """How the teacher's answer becomes what is stored."""

    def take(self, logits: Tensor, keys: Tensor) -> Lists | Draws:
        """What is kept of logits [R, V]; at random by the tokens' keys, int64 [R], alone."""
        ...

    def pack(self, taken: Lists | Draws, keys: Tensor, starts: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of a shard; `starts` are the tokens at which a row begins."""
        ...


class Taken(NamedTuple):
    """What a teacher said of some sequences, sequence by sequence."""

    few: Lists | Draws
    keys: Tensor
    """int64 [R]."""
    lengths: np.ndarray
    """int64: learned tokens of each sequence."""


def label_tokens(
    teacher: LocalTeacher,
    task: Task,
    encoded_by_split: Mapping[str, tuple[Sequences, Sequence[str]]],
    form: Form,
    store: Path,
    key_facts: Mapping[str, Any],
    *,
    known: Known | None = None,
    about: Mapping[str, Any] | None = None,
    batch_tokens: int = 8192,
    precision: str = "fp32",
    device: str = "cpu",
    progress: Progress | None = None,
) -> TokenStore:
    """Make sure that the store below `store` holds what the teacher says of all sequences, and open it.

    `encoded_by_split`: sequences as the teacher reads them, with their keys (see `sequence_keys`). `known`: the
    student's tokens, which are told of; None: the teacher's. `precision`: of the teacher's arithmetic, as in
    training. The rest, and the errors, as in `label`.
    """
    teacher.model.to(device)
    longest = max((int(s.labels.max(initial=1)) for s, _ in encoded_by_split.values()), default=1)
    total = sum(len(keys) for _, keys in encoded_by_split.values())

    def make(piece: Piece, tell: Tell) -> tuple[ShardFacts, dict[str, int]]:
        width, taken = take_tokens(
            teacher, task, encoded_by_split[piece.split][0], piece.rows, piece.keys, form, known=known,
            batch_tokens=batch_tokens, precision=precision, device=device, split=piece.split, tell=tell,
        )  # fmt: skip
        packed = form.pack(taken.few, taken.keys, row_starts(taken.lengths))
        return write_token_shard(piece.folder, piece.name, piece.keys, taken.lengths, packed), {TOKENS: width}

    return fill(
        store, token_manifest(key_facts, about), teacher.processor, encoded_by_split, make, kind=TokenStore,
        shard_rows=max(_SHARD // longest, -(-total // MOST_SHARDS), 1), progress=progress,
    )  # fmt: skip


def token_manifest(key_facts: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> Manifest:
    """The manifest of a store of tokens that holds nothing yet."""
    return Manifest(dict(key_facts), (TOKENS,), (), dict(about or {}))


def take_tokens(
    teacher: LocalTeacher,
    task: Task,
    encoded: Sequences,
    rows: np.ndarray,
    keys: Sequence[str],
    form: Form,
    *,
    known: Known | None = None,
    batch_tokens: int = 8192,
    precision: str = "fp32",
    device: str = "cpu",
    split: str = "data",
    tell: Tell = lambda _: None,
) -> tuple[int, Taken]:
    """What the teacher says of the learned tokens of `rows`, whose keys are `keys`; and of how many outputs, V.

    Raises TeacherError that names a row with NaN or infinite logits.
    """
    lengths = encoded.labels[rows]
    ends = np.cumsum(lengths)
    all_keys, owners = _token_keys(keys, encoded, rows), np.repeat(encoded.owners[rows], lengths)
    parts: list[tuple[np.ndarray, Lists | Draws]] = []
    width = 0
    for batch in token_batches(encoded.lengths[rows].astype(np.float64), batch_budget(batch_tokens, device)):
        counts = lengths[batch]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(ends[batch] - counts, counts) + within
        logits = _project(teacher, task, encoded, rows[batch], known, precision, device)
        width, head = width_of(logits), blocks_of(logits)
        step = max(_BLOCK // width, 1)
        for start in range(0, max(len(places), 1), step):
            chosen = places[start : start + step]
            with torch.no_grad(), rounded_products(precision == "bf16"):
                block = head.block(slice(start, start + step))
            _check(block, teacher.source.name, split, owners[chosen])
            parts.append((chosen, form.take(block, all_keys[chosen].to(block.device))))
        tell(len(batch))
    return width, Taken(merged(parts, len(all_keys)), all_keys, lengths)


def _project(
    teacher: LocalTeacher,
    task: Task,
    encoded: Sequences,
    rows: np.ndarray,
    known: Known | None,
    precision: str,
    device: str,
) -> Told:
    inputs = {name: value.to(device) for name, value in task.batch(encoded, rows, teacher.processor).items()}
    positions = torch.from_numpy(targets_of(encoded, rows).positions).to(device)
    with torch.no_grad(), as_in_training(precision, [one.core for one in teacher.alone.values()], device):
        found = ask(teacher.speaker, inputs, Wanted(), positions)
        logits = (found if known is None else found.in_tokens_of(known)).logits
    assert logits is not None, "logits are wanted"
    return logits


def _token_keys(keys: Sequence[str], encoded: Sequences, rows: np.ndarray) -> Tensor:
    """A number for each learned token, int64 [R]: its sequence's key and its place there."""
    numbers = np.array([int(key, 16) for key in keys], dtype=np.uint64).view(np.int64)
    places = [np.flatnonzero(encoded.learned[row]) for row in rows.tolist()]
    within = np.concatenate([np.zeros(0, dtype=np.int64), *places])
    return torch.from_numpy(np.repeat(numbers, encoded.labels[rows]) + within)


def _check(block: Tensor, name: str, split: str, owners: np.ndarray) -> None:
    """-inf is a token that never comes; NaN and +inf are faults, told by the row of the data, `owners` [R]."""
    good = (block < float("inf")).all(-1)
    if not bool(good.all()):
        raise TeacherError(
            f"{split} row {owners[int((~good).nonzero()[0, 0])]}: the logits of {name} have NaN or infinite values. "
            "Look at this row, and at the teacher's weights; a teacher in half precision may overflow."
        )
