"""One shard of what a teacher says token by token: rows of different lengths, each with its content key.

The arrays of `token_codec`, in a file as `shards` writes it, and beside them

    keys     uint8 [n, longest]    content keys of the rows
    lengths  uint32 [n]            tokens of each row, those that are targets

Reading may start at every row, so that a random batch touches its own rows and two small arrays. Shape letters: n rows
of the shard, R of them asked for, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from attar.errors import StoreError
from attar.teachers.shards import KEYS, ShardFacts, keys_of, map_tensors, remedy, write_tensors
from attar.teachers.token_codec import Draws, Lists, faults, unpack_draws, unpack_lists

LENGTHS = "lengths"


def row_starts(lengths: np.ndarray) -> np.ndarray:
    """The first token of each row, int64 [n], from the rows' lengths [n]: `starts` for the codec."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return ends - lengths


def write_token_shard(
    folder: Path, name: str, keys: Sequence[str], lengths: np.ndarray, packed: Mapping[str, np.ndarray]
) -> ShardFacts:
    """Write one shard atomically.

    `keys` and `lengths` [n] of rows whose tokens, row after row, are in `packed` (of `pack_lists` or `pack_draws`, with
    `starts=row_starts(lengths)`). Raises StorageError; ValueError where `packed` has another number of tokens.
    """
    held = len(packed["counts"])
    if len(keys) != len(lengths) or lengths.sum() != held:
        raise ValueError(
            f"write_token_shard: {len(keys)} keys and {len(lengths)} rows of {lengths.sum()} tokens, but {held} tokens "
            "are packed. Give a key and a length for each row that was packed."
        )
    facts = write_tensors(folder, name, keys, {**packed, LENGTHS: lengths.astype(np.uint32)})
    return replace(facts, tokens=held)


@dataclass(frozen=True)
class TokenShard:
    """A shard that was opened."""

    path: Path
    keys: np.ndarray
    """bytes [n]."""
    lengths: np.ndarray
    """int64 [n]."""
    starts: np.ndarray
    """int64 [n]: the first token of each row."""
    packed: Mapping[str, np.ndarray]
    """Memory-mapped."""

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, rows: np.ndarray) -> Lists | Draws:
        """All tokens of these rows [R], row after row, in the order asked. StoreError where the shard is damaged."""
        starts = self.starts[rows]
        return self.read_tokens(starts, starts + self.lengths[rows])

    def read_tokens(self, starts: np.ndarray, stops: np.ndarray) -> Lists | Draws:
        """The shard's tokens `starts` to before `stops`, int64 [R], run after run; StoreError as in `read`."""
        unpack = unpack_draws if "origins" in self.packed else unpack_lists
        try:
            return unpack(self.packed, starts, stops)
        except (ValueError, IndexError) as error:
            raise StoreError(f"{self.path}: this shard is damaged ({error}). {remedy(self.path.parent)}") from error


def map_token_shard(path: Path, rows: int) -> TokenShard:
    """Open a shard of `rows` rows by memory map.

    Raises StoreError where the file is absent, truncated or not what the manifest says, or its arrays do not fit each
    other. Flipped bits are found by `shards.damage`, which reads the whole file.
    """
    tensors = map_tensors(path)
    packed = {name: value for name, value in tensors.items() if name not in (KEYS, LENGTHS)}
    problem = _foreign(tensors, rows) or faults(packed)
    if problem is None and (said := int(tensors[LENGTHS].sum(dtype=np.int64))) != len(packed["counts"]):
        problem = f"its rows have {said} tokens, but {len(packed['counts'])} are there"
    if problem is not None:
        raise StoreError(f"{path}: this shard is damaged: {problem}. {remedy(path.parent)}")
    lengths = tensors[LENGTHS].astype(np.int64)
    return TokenShard(path, keys_of(tensors), lengths, row_starts(lengths), packed)


def _foreign(tensors: Mapping[str, np.ndarray], rows: int) -> str | None:
    wrong = [name for name in (KEYS, LENGTHS) if name not in tensors or tensors[name].shape[:1] != (rows,)]
    if wrong or tensors[KEYS].ndim != 2 or tensors[LENGTHS].dtype != "<u4":
        return f"it holds {sorted(tensors)}, but the manifest says {rows} rows of tokens"
    return None
