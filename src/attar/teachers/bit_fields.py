"""Numbers of a few bits each, one after another without gaps: written and read as whole arrays.

A stream is uint8, the lowest bit of a byte first. A field is a number below 2^width at a position, both in bits; widths
may differ from field to field, and are not in the stream. Shape letters: N fields, R spans.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WIDEST = 25
"""Bits of a field: a field that starts anywhere in a byte lies within four bytes."""
_BEYOND = 4
"""Bytes after the last field, so that four bytes can be taken anywhere."""


class Region(NamedTuple):
    """Parts of a stream, copied one after another."""

    content: np.ndarray
    """uint8: whole bytes, so with some bits before and after each span that are not of it."""
    shift: np.ndarray
    """int64 [R]: what has to be added to a position in the stream to find it in `content`, for each span."""


def pack_fields(values: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Fields as a stream. `values` [N] non-negative integers, `widths` [N], 0 to 25; what is above a width is lost."""
    owner = np.repeat(np.arange(len(values)), widths)
    starts = np.cumsum(widths, dtype=np.int64) - widths
    bits = (np.asarray(values, dtype=np.int64)[owner] >> (np.arange(len(owner)) - starts[owner])) & 1
    return pack_bits(bits)


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """Zeros and ones [N] as a stream."""
    packed = np.packbits(np.asarray(bits, dtype=np.uint8), bitorder="little")
    return np.concatenate([packed, np.zeros(_BEYOND, dtype=np.uint8)])


def stream_bytes(bits: int) -> int:
    """Length of the stream that holds so many bits."""
    return -(-bits // 8) + _BEYOND


def region(stream: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Region:
    """The spans [R] from bit `starts` to before bit `stops` of a stream; nothing else of it is touched."""
    first, last = starts >> 3, (stops + 7 >> 3) + _BEYOND
    parts = [stream[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
    places = np.cumsum(last - first) - (last - first)
    content = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)
    return Region(content, (places - first) * 8)


def fields(content: np.ndarray, positions: np.ndarray, widths: np.ndarray | int) -> np.ndarray:
    """The fields at these positions [N], as uint32 [N]."""
    wide = content.astype(np.uint32)
    window = wide[:-3] | wide[1:-2] << 8 | wide[2:-1] << 16 | wide[3:] << 24
    mask = (np.left_shift(1, widths) - 1).astype(np.uint32) if isinstance(widths, np.ndarray) else (1 << widths) - 1
    return window[positions >> 3] >> (positions & 7).astype(np.uint32) & mask


def bits_of(content: np.ndarray) -> np.ndarray:
    """Every bit of some bytes, as uint8 0 or 1."""
    return np.unpackbits(content, bitorder="little")
