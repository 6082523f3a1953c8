"""Sequences of tokens, and which of them are learned: what language models read in the place of labelled rows.

Shape letters: N sequences, T tokens of the longest, R learned tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from attar.hashing import hash_bytes
from attar.tasks.base import Encoded


@dataclass(frozen=True, kw_only=True)
class Sequences(Encoded):
    """Sequences as one model reads them. `labels` counts the learned tokens of each, int64 [N]."""

    learned: Sequence[np.ndarray]
    """bool, one array a sequence: which tokens are learned. Never the first, which nothing stands before."""
    owners: np.ndarray
    """int64 [N]: the row of the data that a sequence comes from; ascending. Long texts become several."""


def sequence_keys(keys: Sequence[str], encoded: Sequences) -> list[str]:
    """A content key for each sequence, from the content keys of the rows of the data: of the row, and which of its
    sequences it is.
    """
    starts = np.searchsorted(encoded.owners, encoded.owners)
    pieces = (np.arange(len(encoded)) - starts).tolist()
    return [hash_bytes(keys[row].encode(), b"%d" % piece) for row, piece in zip(encoded.owners, pieces, strict=True)]


class Targets(NamedTuple):
    """The learned tokens of a batch, sequence by sequence. The logits at `positions` are to tell `labels`."""

    positions: np.ndarray
    """int64 [R]: places in the batch's N x T tokens, each the one before a learned token."""
    labels: np.ndarray
    """int64 [R]: the learned tokens' ids."""
    keys: np.ndarray
    """int64 [R]: numbers that tell all learned tokens of the data apart, whatever the batch."""
    sequences: np.ndarray
    """int64 [R]: which of the batch's sequences each is in, 0 to N - 1."""


def targets_of(encoded: Sequences, rows: Sequence[int] | np.ndarray, *, left_padded: bool = False) -> Targets:
    """The targets of some sequences, batched as `Task.batch` pads them."""
    chosen = np.asarray(rows, dtype=np.int64)
    lengths = encoded.lengths[chosen]
    width = int(lengths.max(initial=0))
    places = [np.flatnonzero(encoded.learned[row]) for row in chosen.tolist()]
    counts = np.array([len(place) for place in places], dtype=np.int64)
    within = np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
    sequence = np.repeat(np.arange(len(chosen)), counts)
    shift = (width - lengths)[sequence] if left_padded else 0
    ids = encoded.inputs["input_ids"]
    told = [ids[row][place] for row, place in zip(chosen.tolist(), places, strict=True)]
    longest = int(encoded.lengths.max(initial=1))
    return Targets(
        positions=sequence * width + within - 1 + shift,
        labels=np.concatenate(told).astype(np.int64) if told else np.zeros(0, dtype=np.int64),
        keys=chosen[sequence] * longest + within,
        sequences=sequence,
    )
