"""Labelling: ask a teacher once for every row and keep its signals in a store.

Rows are sorted by length and batched by tokens, so that little is padding. Work is cut into shards; each is written
whole, then listed in the manifest. A killed run loses one shard at most, and the next run makes only what is missing,
with the same rows in the same batches, hence the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.hashing import hash_bytes
from attar.signals import Wanted
from attar.storage import atomic_folder
from attar.tasks.base import Encoded, Processor, Task
from attar.teachers.local import LocalTeacher
from attar.teachers.manifest import MANIFEST, PROCESSOR, Manifest, offers_of
from attar.teachers.scoring import Progress, check_classes, row_costs, score_rows
from attar.teachers.shards import ShardFacts, write_shard
from attar.teachers.store import Kind, Store, open_store

_LEAST_ROWS, MOST_SHARDS = 2048, 256


def label(
    teacher: LocalTeacher,
    task: Task,
    encoded_by_split: Mapping[str, tuple[Encoded, Sequence[str]]],
    wanted: Wanted,
    store: Path,
    key_facts: Mapping[str, Any],
    *,
    about: Mapping[str, Any] | None = None,
    batch_tokens: int = 8192,
    shard_rows: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Store:
    """Make sure that the store below `store` holds the wanted signals of all rows, and open it.

    `encoded_by_split`: rows as the teacher reads them, with their content keys; equal rows are asked once.
    `key_facts`: JSON-able; all that shapes a signal besides the row. `about`: for people; shapes
    nothing. `shard_rows` None: 2,048, or more where that would make more than 256 shards. Batches hold at most
    `batch_tokens` tokens (images: thousands of pixels), padding included.

    Raises TeacherError where the teacher gives NaN or infinity, or lacks a wanted layer; StoreError where shards that
    are there are damaged; StorageError where the disk is full or read-only.
    """
    wanted = teacher.resolve(wanted)

    def make(piece: Piece, tell: Tell) -> tuple[ShardFacts, dict[str, int]]:
        signals = score_rows(
            teacher.model,
            task,
            encoded_by_split[piece.split][0],
            teacher.processor,
            wanted,
            batch_tokens=batch_tokens,
            device=device,
            split=piece.split,
            rows=piece.rows,
            progress=tell,
        )
        if wanted.logits:
            check_classes(signals["logits"], task, teacher.source.name)
        widths = {name: value.shape[1] for name, value in signals.items()}
        return write_shard(piece.folder, piece.name, piece.keys, signals), widths

    manifest = row_manifest(task, wanted, key_facts, about)
    teacher.model.to(device)
    return fill(
        store, manifest, teacher.processor, encoded_by_split, make, kind=Store, shard_rows=shard_rows, progress=progress
    )


@dataclass(frozen=True)
class Piece:
    """The work of one shard: which rows of a split, and what is to be written."""

    split: str
    rows: np.ndarray
    """int64: numbers within the split, longest first."""
    keys: list[str]
    folder: Path

    @property
    def name(self) -> str:
        """Of the shard's file: a hash of its keys."""
        return f"{hash_bytes(*(key.encode() for key in self.keys))}.safetensors"


Tell = Callable[[int], None]
"""Told how many rows were done."""
Make = Callable[[Piece, Tell], tuple[ShardFacts, dict[str, int]]]
"""Asks the teacher and writes a shard; returns its facts, and the width of each signal."""


def fill(
    store: Path,
    manifest: Manifest,
    processor: Processor,
    encoded_by_split: Mapping[str, tuple[Encoded, Sequence[str]]],
    make: Make,
    *,
    kind: type[Kind],
    shard_rows: int | None,
    progress: Progress | None,
) -> Kind:
    """Make what the store of `manifest` below `store` lacks, shard by shard, and open it; the rest as in `label`."""
    folder = store / "signals" / manifest.key
    if not (folder / PROCESSOR).is_dir() and hasattr(processor, "save_pretrained"):
        with atomic_folder(folder / PROCESSOR) as place:
            processor.save_pretrained(place)
    here: Store | None = None
    if (folder / MANIFEST).is_file():
        here = open_store(folder, kind)
        manifest = here.manifest
    work = _work(encoded_by_split, here, shard_rows)
    total, done = sum(len(rows) for _, rows in work), 0

    def tell(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress("asking the teacher", done, total)

    for split, rows in work:
        keys = encoded_by_split[split][1]
        facts, manifest.widths = make(Piece(split, rows, [keys[int(row)] for row in rows], folder), tell)
        manifest.shards.append(facts)
        manifest.write(folder)
    return open_store(folder, kind)


def store_folder(teacher: LocalTeacher, task: Task, wanted: Wanted, store: Path, key_facts: Mapping[str, Any]) -> Path:
    """Where `label` with these arguments writes. Raises TeacherError where a layer is absent, StoreError as there."""
    return store / "signals" / row_manifest(task, teacher.resolve(wanted), key_facts, None).key


def row_manifest(task: Task, wanted: Wanted, key_facts: Mapping[str, Any], about: Mapping[str, Any] | None) -> Manifest:
    """The manifest of a store of rows that holds nothing yet; `wanted` is resolved."""
    return Manifest(dict(key_facts), offers_of(wanted), task.labels, dict(about or {}))


def _work(
    encoded_by_split: Mapping[str, tuple[Encoded, Sequence[str]]], here: Store | None, shard_rows: int | None
) -> list[tuple[str, np.ndarray]]:
    """Rows to ask for, cut into shards: split and row numbers, longest rows first.

    The cuts depend on the data alone, and finished shards are whole ones, so what a killed run left is cut as before.
    """
    rows_of = {split: len(keys) for split, (_, keys) in encoded_by_split.items()}
    size = shard_rows or max(_LEAST_ROWS, -(-sum(rows_of.values()) // MOST_SHARDS))
    seen: set[str] = set()
    work: list[tuple[str, np.ndarray]] = []
    for split, (encoded, keys) in encoded_by_split.items():
        known = here.has(keys) if here is not None else np.zeros(len(keys), dtype=bool)
        fresh = [row for row, key in enumerate(keys) if not known[row] and not (key in seen or seen.add(key))]
        costs = row_costs(encoded)
        order = sorted(fresh, key=lambda row: (-costs[row], keys[row]))
        work += [(split, np.array(order[i : i + size], dtype=np.int64)) for i in range(0, len(order), size)]
    return work
