"""A reader of packed tokens that goes bit by bit, in Python's own numbers, by the words of the docstrings alone."""

from __future__ import annotations

import math
from typing import NamedTuple


class Token(NamedTuple):
    """Of each entry its id and the depth of its own level (None: shared), and the depth of the shared level."""

    ids: list[int]
    own: list[float | None]
    shared: float


class Bits:
    """A stream, read from its start; the lowest bit of a byte comes first."""

    def __init__(self, stream) -> None:
        self.whole, self.at = int.from_bytes(bytes(stream), "little"), 0

    def take(self, width: int) -> int:
        found = self.whole >> self.at & (1 << width) - 1
        self.at += width
        return found


def read_all(packed) -> list[Token]:
    """Every token, from the first on, without marks."""
    unary, low, levels = (Bits(packed[name]) for name in ("unary", "low", "levels"))
    flags = Bits(packed["own"]) if "own" in packed else None
    edges, bits = [int(e) for e in packed["edges"]], int(packed["bits"][0])

    def depth(step: float) -> float:
        level = levels.take(bits)
        return math.inf if level == 2**bits - 1 else level * step

    tokens = []
    for count, code in zip(packed["counts"].tolist(), packed["steps"].tolist(), strict=True):
        ids = []
        for bucket in range(len(edges) - 1):
            while unary.take(1):
                ids.append(edges[bucket] + low.take((edges[bucket + 1] - edges[bucket]).bit_length() - 1))
        assert len(ids) == count
        own = [flags is None or bool(flags.take(1)) for _ in ids]
        step = 2.0 ** (code / 16 - 12)
        shared = depth(step)
        tokens.append(Token(ids, [depth(step) if mine else None for mine in own], shared))
    return tokens
