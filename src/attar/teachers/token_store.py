"""A store of what a language model says of each token: another kind of shards, read as targets on few tokens.

A row of it is a sequence of tokens as the teacher reads it, and found by them (see `sequence_keys`); what is stored is
said of those that are learned. Shape letters: R tokens read, n rows asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from attar.errors import StoreError
from attar.signals import Listed, Sampled, Signals, Wanted
from attar.teachers.manifest import TOKENS
from attar.teachers.store import Store, StoreReader
from attar.teachers.token_codec import Draws, Lists
from attar.teachers.token_shards import map_token_shard

_FILLS = {"token_ids": -1, "log_probs": -np.inf, "weights": 0.0}


class TokenStore(Store):
    """An opened store of tokens. Positions are row numbers over all shards, in the manifest's order."""

    def _open(self) -> list[np.ndarray]:
        if self.manifest.offers != (TOKENS,):
            raise StoreError(
                f"{self.path}: holds {', '.join(self.manifest.offers)} of whole rows, but a language model learns from "
                "tokens. Label again with task.kind: causal_lm."
            )
        self._of_tokens = [map_token_shard(self.path / s.name, s.rows) for s in self.manifest.shards]
        self.lengths = np.concatenate([np.empty(0, dtype=np.int64), *(shard.lengths for shard in self._of_tokens)])
        """int64: tokens of each row, by position."""
        return [shard.keys for shard in self._of_tokens]

    def read(self, positions: np.ndarray, wanted: Wanted | None = None) -> Signals:
        """All tokens of rows at these positions, row after row, on the CPU; there is nothing else to be `wanted`."""
        found = self.read_few(positions)
        return Signals(few=_tensors(found))

    def read_few(self, positions: np.ndarray) -> Lists | Draws:
        """The same as arrays [R, ...]."""
        ends = np.cumsum(self.lengths[positions])
        parts: list[tuple[np.ndarray, Lists | Draws]] = []
        for shard, here, rows in self._places(positions):
            lengths = self.lengths[positions[here]]
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            parts.append((np.repeat(ends[here] - lengths, lengths) + within, self._of_tokens[shard].read(rows)))
        if len(parts) == 1:
            return parts[0][1]
        if not parts:
            raise StoreError(f"{self.path}: no rows were asked for.")
        return merged(parts, int(ends[-1]))

    def token_reader(self, keys: Sequence[str]) -> StoreReader:
        """A reader by row number of the caller's own sequences, whose keys are `keys` (see `sequence_keys`).

        Raises StoreError where one is absent.
        """
        absent = np.flatnonzero(~self.has(keys))
        if len(absent):
            raise StoreError(
                f"{self.path}: {len(absent)} of {len(keys)} sequences are not in this store of {len(self)} (the first "
                f"is {absent[0]}). The data has changed since it was labelled: run `attar label RECIPE` again. Or the "
                "student reads texts otherwise than the teacher: use student.vocabulary.keep: all, and a student with "
                "the teacher's tokenizer and chat template."
            )
        return StoreReader(self, self.rows(keys))


def _tensors(found: Lists | Draws) -> Listed | Sampled:
    parts = {name: torch.from_numpy(value) for name, value in found._asdict().items()}
    return Sampled(**parts) if isinstance(found, Draws) else Listed(**parts)


def merged(parts: Sequence[tuple[np.ndarray, Lists | Draws]], tokens: int) -> Lists | Draws:
    """Tokens of several shards at their places, as wide as the widest."""
    width = max(found.token_ids.shape[1] for _, found in parts)
    merged: dict[str, np.ndarray] = {}
    for name, one in parts[0][1]._asdict().items():
        shape = (tokens, width) if one.ndim == 2 else (tokens,)
        merged[name] = np.full(shape, _FILLS.get(name, 0.0), dtype=one.dtype)
        for places, found in parts:
            value = getattr(found, name)
            if one.ndim == 2:
                merged[name][places, : value.shape[1]] = value
            else:
                merged[name][places] = value
    return type(parts[0][1])(**merged)
