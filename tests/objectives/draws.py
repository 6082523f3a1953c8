"""Rows of two sides (one seeded batch, and what hypothesis draws), and the gradient of their values."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

quick = settings(max_examples=25, derandomize=True)


def pairs(width: int, dtype: type = np.float64) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    """Logits of both sides, [1..4, width], from -30 to 30."""
    span = st.floats(-30, 30, width=32 if dtype is np.float32 else 64)
    shapes = st.tuples(st.integers(1, 4), st.just(width))
    both = shapes.flatmap(lambda shape: st.tuples(*[arrays.arrays(dtype, shape, elements=span)] * 2))
    return both.map(lambda sides: (torch.from_numpy(sides[0]), torch.from_numpy(sides[1])))


def batch(rows: int = 5, width: int = 11, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """One batch of both sides, [rows, width] each, float64."""
    generator = torch.Generator().manual_seed(7)
    student, teacher = scale * torch.randn(2, rows, width, dtype=torch.float64, generator=generator)
    return student, teacher


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    """That of the sum of the values."""
    return torch.autograd.grad(value.sum(), leaf)[0]
