"""Overlaps: rows whose input stands in test (or validation) already are taken out of what is trained on, never out of
test.

Texts are compared after Unicode compatibility folding (NFKC), case folding and joining of white space; images by their
decoded pixels. Labels play no part.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

_BETWEEN = "\x1f"


def text_key(text: str, pair: str | None = None) -> str:
    """What two texts (or pairs) share when they count as the same row."""
    key = _folded(text)
    return key if pair is None else f"{key}{_BETWEEN}{_folded(pair)}"


def _folded(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def outside(keys: Sequence[str], taken: Iterable[str]) -> np.ndarray:
    """Positions of the rows whose key is not among `taken`, ascending."""
    closed = set(taken)
    return np.array([i for i, key in enumerate(keys) if key not in closed], dtype=np.int64)


def repeated(keys: Sequence[str]) -> int:
    """How many rows repeat an earlier row."""
    return len(keys) - len(set(keys))
