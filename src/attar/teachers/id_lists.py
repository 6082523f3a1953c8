"""Ascending lists of token ids in few bits: unary for the bucket an id is in, plain bits for its place there.

Elias-Fano coding, but for buckets of unequal width: ids of a text crowd in a part of the vocabulary, and there the
buckets are narrow. All widths are powers of two and each bucket starts at a multiple of its width. Of all such
partitions `partition` takes the one in which the given ids need the fewest bits; it is kept beside the streams.

The unary stream of a list is, bucket by bucket, a 1 for each id and then a 0. Shape letters: T lists, N ids in all
lists, B buckets, R spans.
"""

from __future__ import annotations

import numpy as np

from attar.teachers.bit_fields import WIDEST, Region, bits_of


def partition(token_ids: np.ndarray, lists: int) -> np.ndarray:
    """First ids of the buckets, and the end of the last: int32 [B + 1].

    `token_ids` [N] of all `lists` lists together. Bottom up over a binary tree: two halves become one bucket where an
    extra bit for each id in them costs no more than a 0 for each list. Raises ValueError for an id of 2^25 or more.
    """
    depth = max(int(token_ids.max(initial=0)).bit_length(), 1)
    if depth > WIDEST:
        raise ValueError(f"token ids: the largest is {token_ids.max()}, but they must be below {1 << WIDEST}")
    held = np.bincount(token_ids, minlength=1 << depth)
    cost = np.full(1 << depth, lists, dtype=np.int64)
    merged = [np.ones(1 << depth, dtype=bool)]
    for width in range(1, depth + 1):
        held = held.reshape(-1, 2).sum(1)
        apart, together = cost.reshape(-1, 2).sum(1), held * width + lists
        merged.append(together <= apart)
        cost = np.minimum(apart, together)
    first: list[int] = []
    waiting = [(depth, 0)]
    while waiting:
        width, number = waiting.pop()
        if merged[width][number]:
            first.append(number << width)
        else:
            waiting += [(width - 1, 2 * number + 1), (width - 1, 2 * number)]
    return np.array([*first, 1 << depth], dtype=np.int32)


def split(token_ids: np.ndarray, counts: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lists as the bits of the unary stream, and the low fields [N] with their widths [N].

    `token_ids` [N] list after list, ascending in each (a repeated id is allowed); `counts` [T].
    """
    buckets = np.searchsorted(edges, token_ids, side="right") - 1
    owner = np.repeat(np.arange(len(counts)), counts)
    unary = np.zeros(len(token_ids) + len(counts) * (len(edges) - 1), dtype=np.uint8)
    unary[np.arange(len(token_ids)) + owner * (len(edges) - 1) + buckets] = 1
    return unary, token_ids - edges[buckets], widths_of(edges)[buckets]


def widths_of(edges: np.ndarray) -> np.ndarray:
    """Bits of a place in each bucket, int64 [B]."""
    return np.frexp(np.diff(edges).astype(np.float64))[1].astype(np.int64) - 1


def find_buckets(
    unary: Region, starts: np.ndarray, stops: np.ndarray, lists: np.ndarray, counts: np.ndarray, buckets: int
) -> np.ndarray:
    """The bucket of each id, int64 [N], for R spans of whole lists.

    `unary` is the stream from bit `starts` to `stops` [R]; `lists` [R] of each span; `counts` [T] of all those lists,
    span after span. Raises ValueError where the stream does not fit `counts`: it is damaged.
    """
    bits = bits_of(unary.content)
    outside = 0
    for start, stop in zip((starts + unary.shift).tolist(), (stops + unary.shift).tolist(), strict=True):
        bits[outside:start] = 0
        outside = stop
    bits[outside:] = 0
    ones = np.flatnonzero(bits.view(np.bool_))
    ends = np.append(0, np.cumsum(counts))
    if len(ones) != ends[-1]:
        raise ValueError(f"the ids are damaged: {len(ones)} were found, {ends[-1]} were written")
    first = np.cumsum(lists) - lists
    # Of the bits before an id in its list, those that are not ids end a bucket.
    order = np.arange(len(counts)) - np.repeat(first, lists)
    base = np.repeat(starts + unary.shift - ends[first], lists) + order * buckets
    found = ones - np.arange(len(ones)) - np.repeat(base, counts)
    if len(found) and (found.min() < 0 or found.max() >= buckets):
        raise ValueError("the ids are damaged: some lie outside of all buckets")
    return found
