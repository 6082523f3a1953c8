"""Teacher signals on disk: content-addressed, checked when opened, read by memory map.

    STORE/signals/KEY/manifest.json          what shaped the signals, what is offered, and each shard's SHA-256
    STORE/signals/KEY/NAME.safetensors       signals and content keys of some rows (see `shards`)
    STORE/signals/KEY/processor/             the teacher's tokenizer or image processor, as it saves itself
    STORE/signals/KEY/.verified.json         cache: which shards were hashed, and their file times then

KEY is the hash of all that shapes a signal except the row: teacher, tokenizer, length limit, precision, signals. A row
is found by its content key, so equal rows share one entry, and rows may be added later. The folder KEY is all that
another machine needs.

Opening hashes each shard once per machine: a shard whose size, inode, change time and modification time are those of
the last successful hash is taken as intact. `verify` always hashes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch

from attar.errors import StorageError, StoreError
from attar.hashing import canonical_json
from attar.signals import Signals, Wanted
from attar.storage import atomic_write
from attar.teachers.manifest import TOKENS, Manifest, find_store, offers_of, read_manifest, wanted_of
from attar.teachers.shards import KEYS, damage, map_shard, remedy

_VERIFIED = ".verified.json"


class Store:
    """An opened store. Positions are row numbers over all shards, in the manifest's order."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._ends = np.cumsum([s.rows for s in manifest.shards], dtype=np.int64)
        keys = np.concatenate([np.empty(0, dtype="S1"), *self._open()])
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def _open(self) -> list[np.ndarray]:
        """Map the shards; returns the keys of each, bytes [n]."""
        manifest = self.manifest
        if TOKENS in manifest.offers:
            raise StoreError(f"{self.path}: holds tokens of a language model. Use it with task.kind: causal_lm.")
        self._shards = [map_shard(self.path / s.name, manifest.offers, s.rows) for s in manifest.shards]
        return [s[KEYS] for s in self._shards]

    def __reduce__(self) -> tuple[type[Store], tuple[Path, Manifest]]:
        """To a data loader's worker goes the name, and the files are mapped again."""
        return type(self), (self.path, self.manifest)

    def __len__(self) -> int:
        return len(self._keys)

    def has(self, keys: Sequence[str]) -> np.ndarray:
        """Which rows are here: bool [n]."""
        return self._find(keys)[1]

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Positions int64 [n] of rows by content key. Raises StoreError where a row is absent."""
        places, found = self._find(keys)
        if not found.all():
            absent = np.flatnonzero(~found)
            raise StoreError(
                f"{self.path}: {len(absent)} of {len(keys)} rows are not in this store of {len(self)} rows (the first "
                "is "
                f"row {absent[0]}, key {keys[absent[0]]}). The data has changed since it was labelled, or another data "
                "set was. Run `attar label RECIPE` with this data."
            )
        return self._order[places]

    def read(self, positions: np.ndarray, wanted: Wanted | None = None) -> Signals:
        """Signals of rows at these positions, float32 on the CPU; `wanted` None reads all that is offered."""
        offers = self.manifest.offers if wanted is None else offers_of(wanted)
        gathered = {n: np.empty((len(positions), self.manifest.widths[n]), dtype=np.float32) for n in offers}
        for shard, here, rows in self._places(positions):
            for name in offers:
                gathered[name][here] = self._shards[shard][name][rows]
        tensors = {name: torch.from_numpy(value) for name, value in gathered.items()}
        hidden = {wanted_of([name]).hidden[0]: value for name, value in tensors.items() if name != "logits"}
        return Signals(tensors.get("logits"), hidden)

    def reader(self, keys: Sequence[str], wanted: Wanted | None = None) -> StoreReader:
        """A reader by row number of the caller's own rows, whose content keys are `keys`."""
        return StoreReader(self, self.rows(keys), wanted)

    def require(self, labels: Sequence[str], wanted: Wanted) -> None:
        """Check that the store serves these labels, in this order, and these signals. Raises StoreError."""
        if wanted.logits and tuple(labels) != self.manifest.labels:
            raise StoreError(f"{self.path}: {_label_difference(self.manifest.labels, labels)}")
        lacking = [name for name in offers_of(wanted) if name not in self.manifest.offers]
        if lacking:
            raise StoreError(
                f"{self.path}: offers {', '.join(self.manifest.offers)}, but the objectives need {', '.join(lacking)}. "
                "Label again with these objectives in the recipe, or drop the objective."
            )

    def require_facts(self, facts: dict[str, Any]) -> None:
        """Check that the signals were shaped by `facts`; a StoreError names each fact that differs."""
        mine = self.manifest.facts
        differing = [k for k in sorted({*mine, *facts}) if canonical_json(mine.get(k)) != canonical_json(facts.get(k))]
        if differing:
            lines = [f"  {k}: the store has {mine.get(k)!r}, this run {facts.get(k)!r}" for k in differing]
            raise StoreError(
                "\n".join([f"{self.path}: made by something else. Label again, or correct the recipe:", *lines])
            )

    def _places(self, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Shards that hold these rows; which of `positions` are there, and their row numbers within the shard."""
        positions = np.asarray(positions, dtype=np.int64)
        owner = np.searchsorted(self._ends, positions, side="right")
        for shard in np.unique(owner).tolist():
            here = np.flatnonzero(owner == shard)
            yield shard, here, positions[here] - (self._ends[shard] - self.manifest.shards[shard].rows)

    def _find(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        asked = np.array([key.encode("ascii") for key in keys], dtype=np.bytes_)
        places = np.searchsorted(self._keys, asked)
        clipped = np.minimum(places, max(len(self) - 1, 0))
        found = self._keys[clipped] == asked if len(self) else np.zeros(len(keys), dtype=bool)
        return clipped, found


@dataclass(frozen=True)
class StoreReader:
    """A store seen through the caller's row numbers."""

    store: Store
    positions: np.ndarray
    wanted: Wanted | None = None

    def read(self, rows: np.ndarray) -> Signals:
        """Signals of the caller's rows."""
        return self.store.read(self.positions[rows], self.wanted)


Kind = TypeVar("Kind", bound=Store)


def open_store(path: Path, kind: type[Kind] = Store) -> Kind:
    """Open a store and make sure that its shards are whole. Raises StoreError that names the damaged shard."""
    folder = find_store(path)
    manifest = read_manifest(folder)
    known = _read_verified(folder)
    fresh: dict[str, list[Any]] = {}
    for shard in manifest.shards:
        file = folder / shard.name
        stamp = [shard.sha256, *_stamp(file)]
        if known.get(shard.name) != stamp and (problem := damage(file, shard)):
            raise StoreError(f"{problem} {remedy(folder)}")
        fresh[shard.name] = stamp
    if fresh != known:
        _write_verified(folder, fresh)
    return kind(folder, manifest)


def verify(path: Path) -> list[str]:
    """Hash every shard. Returns one line a problem; empty: the store is whole. Raises StoreError without a manifest."""
    folder = find_store(path)
    manifest = read_manifest(folder)
    problems = [p for shard in manifest.shards if (p := damage(folder / shard.name, shard))]
    return problems + [f"{file}: not in the manifest (left by a killed run)." for file in _strays(folder, manifest)]


def prune(path: Path) -> list[str]:
    """Remove damaged shards and what killed runs left; a rerun labels only what was removed. Returns what was done."""
    folder = find_store(path)
    manifest = read_manifest(folder)
    damaged = {s.name: p for s in manifest.shards if (p := damage(folder / s.name, s))}
    strays = _strays(folder, manifest)
    if damaged:
        manifest.shards = [s for s in manifest.shards if s.name not in damaged]
        manifest.write(folder)
    for file in [*(folder / name for name in damaged), *strays, folder / _VERIFIED]:
        file.unlink(missing_ok=True)
    return [*damaged.values(), *(f"{file}: removed, it was not in the manifest." for file in strays)]


def show(path: Path) -> dict[str, Any]:
    """What a store holds, for people; reads the manifest alone."""
    folder = find_store(path)
    manifest = read_manifest(folder)
    return {
        "path": str(folder),
        "key": manifest.key,
        "rows": manifest.rows,
        "shards": len(manifest.shards),
        "bytes": manifest.bytes,
        **({"tokens": manifest.tokens} if manifest.tokens else {}),
        "offers": {name: manifest.widths.get(name) for name in manifest.offers},
        "labels": list(manifest.labels),
        "facts": manifest.facts,
        "about": manifest.about,
    }


def _strays(folder: Path, manifest: Manifest) -> list[Path]:
    listed = {shard.name for shard in manifest.shards}
    return sorted(f for f in folder.iterdir() if ".safetensors" in f.name and f.name not in listed)


def _stamp(file: Path) -> list[int]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return []
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _read_verified(folder: Path) -> dict[str, list[Any]]:
    try:
        return cast("dict[str, list[Any]]", json.loads((folder / _VERIFIED).read_bytes()))
    except (OSError, ValueError):
        return {}


def _write_verified(folder: Path, stamps: dict[str, list[Any]]) -> None:
    try:
        atomic_write(folder / _VERIFIED, json.dumps(stamps))
    except StorageError:
        return  # a store on a read-only disk is hashed in each process


def _label_difference(mine: Sequence[str], task: Sequence[str]) -> str:
    if sorted(mine) == sorted(task):
        return "its logits have the task's labels in another order. Give `task.labels` in the store's order: " + str(
            list(mine)
        )
    only_store, only_task = sorted(set(mine) - set(task)), sorted(set(task) - set(mine))
    return (
        f"its labels are not the task's: only in the store {only_store[:8]}, only in the task {only_task[:8]}. "
        "It was made for other data; label again."
    )
