"""Ids and levels of many tokens as packed arrays, of which any run of tokens is read without the rest.

    counts   uint8 or uint16 [T]   ids of each token
    edges    int32 [B + 1]         the partition of the ids into buckets (see `id_lists`)
    unary    uint8                 stream: the bucket of each id
    low      uint8                 stream: the place of each id in its bucket
    own      uint8                 stream: a flag for each id, 1 where it has a level of its own; absent where all have
    levels   uint8                 stream: of each token first the level that is not an id's own, then those that are
    bits     uint8 [1]             width of a level
    marks    uint32 [M, 4]         where reading may start: tokens, ids, levels, and bits of `low` before there; the
                                   last stands at the end

Shape letters: T tokens, N ids of all of them, L levels that are an id's own, R runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from attar.teachers.bit_fields import bits_of, fields, pack_bits, pack_fields, region, stream_bytes
from attar.teachers.id_lists import find_buckets, partition, split, widths_of

Packed = Mapping[str, np.ndarray]
_DTYPES = {
    "counts": "u1 u2", "edges": "i4", "unary": "u1", "low": "u1", "own": "u1", "levels": "u1", "bits": "u1",
    "marks": "u4",
}  # fmt: skip
_MOST = 1 << 32


class Flat(NamedTuple):
    """Ids of tokens one after another, ascending in each."""

    counts: np.ndarray
    """int64 [T]."""
    token_ids: np.ndarray
    """int32 [N]."""
    own: np.ndarray | None
    """bool [N]: which have a level of their own; None: all."""
    shared_levels: np.ndarray
    """uint8 [T]."""
    own_levels: np.ndarray
    """uint8 [L]."""

    @property
    def owner(self) -> np.ndarray:
        """The token of each id, int64 [N]."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


def write(flat: Flat, bits: int, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays as above; `starts`, ascending, are tokens at which reading may start, besides the first.

    Raises ValueError where a token has 65,536 ids or more, or a stream would be 512 MB or longer.
    """
    tokens, most = len(flat.counts), int(flat.counts.max(initial=0))
    if most >= 1 << 16:
        raise ValueError(f"a token has {most} ids; at most 65,535 can be written")
    edges = partition(flat.token_ids, tokens)
    unary, low, widths = split(flat.token_ids, flat.counts, edges)
    own_counts = flat.counts if flat.own is None else np.bincount(flat.owner[flat.own], minlength=tokens)
    before = _before(own_counts)
    levels = np.empty(tokens + len(flat.own_levels), dtype=np.uint8)
    places = np.arange(tokens) + before[:-1]
    levels[places] = flat.shared_levels
    levels[_without(places, len(levels))] = flat.own_levels
    ids, low_bits = _before(flat.counts), _before(widths)
    if max(len(unary), len(levels) * bits, int(low_bits[-1])) >= _MOST:
        raise ValueError(f"{tokens} tokens are too many for one piece: a stream would exceed 512 MB. Cut into shards.")
    at = np.concatenate([[0], starts[(starts > 0) & (starts < tokens)], [tokens]]).astype(np.int64)
    packed = {
        "counts": flat.counts.astype(np.uint8 if most < 1 << 8 else np.uint16),
        "edges": edges,
        "unary": pack_bits(unary),
        "low": pack_fields(low, widths),
        "levels": pack_fields(levels, np.full(len(levels), bits)),
        "bits": np.array([bits], dtype=np.uint8),
        "marks": np.stack([at, ids[at], at + before[at], low_bits[ids[at]]], -1).astype(np.uint32),
    }
    return packed if flat.own is None else {**packed, "own": pack_bits(flat.own)}


def faults(packed: Packed) -> str | None:
    """What is wrong with arrays that were read from somewhere; None: their kinds and shapes fit each other."""
    for name, allowed in _DTYPES.items():
        if name == "own" and name not in packed:
            continue
        if name not in packed:
            return f"{name} is absent"
        if packed[name].dtype.str[1:] not in allowed.split():
            return f"{name} is {packed[name].dtype}"
    marks, edges = packed["marks"], packed["edges"].astype(np.int64)
    if marks.ndim != 2 or marks.shape[1] != 4 or len(marks) < 2 or marks[0].any():
        return f"marks are {list(marks.shape)}"
    if (np.diff(marks.astype(np.int64), axis=0) < 0).any():
        return "marks do not ascend"
    wide = np.diff(edges)
    if edges.ndim != 1 or not len(wide) or edges[0] or (wide <= 0).any() or (wide & (wide - 1)).any():
        return "edges are no partition"
    tokens, ids, levels, low = marks[-1].astype(np.int64).tolist()
    lengths = {
        "counts": tokens,
        "unary": stream_bytes(ids + tokens * (len(packed["edges"]) - 1)),
        "low": stream_bytes(low),
        "levels": stream_bytes(levels * int(packed["bits"].max(initial=0))),
        "bits": 1,
        "own": stream_bytes(ids),
    }
    wrong = [name for name, length in lengths.items() if name in packed and packed[name].shape != (length,)]
    return f"{wrong[0]} has {len(packed[wrong[0]])} numbers, not {lengths[wrong[0]]}" if wrong else None


def read(packed: Packed, starts: np.ndarray, stops: np.ndarray) -> Flat:
    """Tokens `starts` to before `stops`, int64 [R], run after run.

    Touched are those tokens, and what lies between the last mark and each start. Raises ValueError where the arrays
    contradict one another.
    """
    some = stops > starts
    starts, stops, bits = starts[some], stops[some], int(packed["bits"][0])
    marks, edges = packed["marks"], np.asarray(packed["edges"])
    mark = marks[np.searchsorted(marks[:, 0], starts, side="right") - 1]
    first, ids, levels, low = mark.astype(np.int64).reshape(-1, 4).T
    counts, tokens = runs(packed["counts"], first, stops).astype(np.int64), stops - first
    token_ends, ends = _before(tokens), _before(counts)
    begun, held = ends[token_ends[:-1]], np.diff(ends[token_ends])

    unary_start = ids + first * (len(edges) - 1)
    unary_stop = unary_start + held + tokens * (len(edges) - 1)
    unary = region(packed["unary"], unary_start, unary_stop)
    buckets = find_buckets(unary, unary_start, unary_stop, tokens, counts, len(edges) - 1)
    widths = widths_of(edges)[buckets]
    low_ends = _before(widths)
    places = region(packed["low"], low, low + np.diff(low_ends[ends[token_ends]]))
    positions = low_ends[:-1] + np.repeat(low + places.shift - low_ends[begun], held)
    token_ids = edges[buckets] + fields(places.content, positions, widths).astype(np.int32)

    own, own_ends = None, ends
    if "own" in packed:
        flags = region(packed["own"], ids, ids + held)
        own = bits_of(flags.content)[np.arange(len(token_ids)) + np.repeat(ids + flags.shift - begun, held)].view(bool)
        own_ends = _before(own)[ends]
    slots = tokens + np.diff(own_ends[token_ends])
    levels_at = region(packed["levels"], levels * bits, (levels + slots) * bits)
    base = levels * bits + levels_at.shift - bits * _before(slots)[:-1]
    written = fields(levels_at.content, np.arange(slots.sum()) * bits + np.repeat(base, slots), bits).astype(np.uint8)
    shared = np.arange(len(counts)) + own_ends[:-1]
    flat = Flat(counts, token_ids, own, written[shared], written[_without(shared, len(written))])
    return flat if (first == starts).all() else _only(flat, own_ends, np.repeat(starts - first, tokens), token_ends)


def runs(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Slices of an array, one after another."""
    return np.concatenate([values[:0], *(values[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True))])


def _only(flat: Flat, own_ends: np.ndarray, skipped: np.ndarray, token_ends: np.ndarray) -> Flat:
    """Without the first `skipped` [T] tokens of each run."""
    order = np.arange(len(flat.counts)) - np.repeat(token_ends[:-1], np.diff(token_ends))
    wanted = order >= skipped
    of_ids, of_own = np.repeat(wanted, flat.counts), np.repeat(wanted, np.diff(own_ends))
    own = None if flat.own is None else flat.own[of_ids]
    levels = flat.shared_levels[wanted], flat.own_levels[of_own]
    return Flat(flat.counts[wanted], flat.token_ids[of_ids], own, *levels)


def _before(lengths: np.ndarray) -> np.ndarray:
    """Sum of all before each, and of all: one longer."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _without(places: np.ndarray, length: int) -> np.ndarray:
    """A mask [length]: all but these."""
    mask = np.ones(length, dtype=bool)
    mask[places] = False
    return mask
