"""Cutting a part off a split: seeded, and in proportion to the classes where there is one label a row."""

from __future__ import annotations

import numpy as np


def stratified_cut(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions kept and positions cut off, both ascending.

    `labels` int64 [N] cuts each class in proportion and leaves at least one row of each class in the kept part; any
    other array (numbers, multi-hot rows) is cut at random. About `fraction` of the rows are cut off; at least one
    where a row can be spared, which takes two rows, and for classes one more row than there are classes.
    """
    count = len(labels)
    order = np.random.default_rng(seed).permutation(count)
    spare = order
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        order = order[np.argsort(labels[order], kind="stable")]
        first = np.ones(count, dtype=bool)
        first[1:] = labels[order][1:] != labels[order][:-1]
        spare = order[~first]
    size = min(max(round(fraction * count), 1), len(spare) if len(spare) < count else count - 1)
    step = (np.arange(size) + 0.5) * (len(spare) / max(size, 1))
    cut = np.sort(spare[step.astype(np.int64)])
    return np.setdiff1d(np.arange(count), cut), cut


def draw(labels: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Positions of `rows` rows, ascending, in proportion to the classes where there are any; all rows if fewer."""
    if rows >= len(labels):
        return np.arange(len(labels))
    kept, _ = stratified_cut(labels, 1 - rows / len(labels), seed)
    if len(kept) > rows:
        kept = np.sort(np.random.default_rng(seed).choice(kept, rows, replace=False))
    return kept
