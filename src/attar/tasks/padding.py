"""From rows of token ids to one batch: every input padded to the longest row, and the mask that says what is real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from attar.tasks.base import ROUTE, Encoded


def padded(
    encoded: Encoded, rows: Sequence[int] | np.ndarray, *, fill: Mapping[str, int], left: bool, mask: bool
) -> dict[str, Tensor]:
    """int64 [N, T] of each input, padded with `fill` (0 where it does not name the input) on the left or on the right;
    with `mask` an `attention_mask` too, and the rows' `ROUTE` where they have one.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    lengths = encoded.lengths[chosen]
    width = int(lengths.max(initial=0))
    place = np.arange(width)
    real = place >= (width - lengths)[:, None] if left else place < lengths[:, None]
    order = chosen.tolist()
    made: dict[str, Tensor] = {}
    for name, arrays in encoded.inputs.items():
        full = np.full(real.shape, fill.get(name, 0), dtype=np.int64)
        full[real] = np.concatenate([arrays[row] for row in order]) if order else []
        made[name] = torch.from_numpy(full)
    if mask:
        made["attention_mask"] = torch.from_numpy(real.astype(np.int64))
    return made | routed(encoded, chosen)


def routed(encoded: Encoded, rows: np.ndarray) -> dict[str, Tensor]:
    """`ROUTE` of some rows, int64 [n]; empty where they have none."""
    return {} if encoded.route is None else {ROUTE: torch.from_numpy(encoded.route[rows])}
