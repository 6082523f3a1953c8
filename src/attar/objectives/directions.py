"""Directions of vectors, for every objective that is blind to their length."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(vectors: Tensor) -> Tensor:
    """[..., D] -> [..., D], each of length 1. The zero vector has no direction: it stays, with a gradient of size 1."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)
