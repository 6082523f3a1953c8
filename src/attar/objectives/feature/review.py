"""Knowledge review: each of the teacher's stages is learned by the student's own and all deeper ones.

Shape letters: N rows, C channels, H x W pixels, M the fusion's channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.objectives.feature.maps import at_one_size
from attar.objectives.learned import convolve, make_convolution

_LEVELS = (4, 2, 1)
_SLOPE = 1.0


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """sum_l w_l mean_chw (f_s,l - f_t,l)^2 / sum_l w_l per row, over a pyramid. ReviewKD, Chen et al. 2021
    (arXiv:2104.09044).

    [N, C, H_s, W_s] and [N, C, H_t, W_t], float32 or float64; the larger map is first averaged down to the smaller. The
    pyramid's levels are the map itself and its averages over 4 x 4, 2 x 2 and 1 x 1 bins, as far as they are smaller
    than the map; each weighs half as much as the one before. Returns [N], >= 0. No gradient reaches the teacher.

    `fitnet` at several scales: the coarse ones forgive a feature that lies a pixel off. Made for the maps of
    `ReviewFusion`; its term is the mean over the stages (the authors add up).
    """
    student, teacher = at_one_size(student, teacher.detach())
    gap = student - teacher
    value, weight, total = _mean_square(gap), 1.0, 1.0
    for level in _LEVELS:
        if level < min(gap.shape[2:]):
            weight /= 2.0
            total += weight
            value = value + weight * _mean_square(functional.adaptive_avg_pool2d(gap, level))
    return value / total


class ReviewFusion(nn.Module):
    """What ReviewKD learns: the student's maps, each fused with what was made of the deeper ones (arXiv:2104.09044).

    From the deepest stage on: 1 x 1 to M channels; mixed with the residual from below (brought to this map's size by
    nearest neighbours) by two attention maps; 3 x 3 to the teacher's channels. Batch normalisation follows both
    convolutions, as in the authors' code, so rows of a batch are not independent in training. Drawn from `seed` and
    `name`, without touching the global random state.
    """

    def __init__(
        self, student_channels: Sequence[int], teacher_channels: Sequence[int], *, width: int, seed: int, name: str
    ) -> None:
        super().__init__()
        pairs = list(zip(student_channels, teacher_channels, strict=True))
        self.stages = nn.ModuleList(
            _Stage(ours, width, theirs, fuses=at + 1 < len(pairs), seed=seed, name=f"{name}.{at}")
            for at, (ours, theirs) in enumerate(pairs)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The student's maps, shallow to deep, [N, C_s, H, W] each -> the same with the teacher's channels."""
        fused: list[Tensor] = []
        residual: Tensor | None = None
        for stage, features in reversed(list(zip(self.stages, maps, strict=True))):
            made, residual = cast("_Stage", stage)(features, residual)
            fused.append(made)
        return fused[::-1]


class _Stage(nn.Module):
    """One attention-based fusion: (map, residual from below) -> (map as the teacher's, residual for the next)."""

    def __init__(self, channels: int, width: int, outputs: int, *, fuses: bool, seed: int, name: str) -> None:
        super().__init__()
        self.enter = make_convolution(channels, width, 1, seed=seed, name=f"{name}.enter", slope=_SLOPE)
        self.enter_norm = nn.BatchNorm2d(width)
        self.leave = make_convolution(width, outputs, 3, seed=seed, name=f"{name}.leave", slope=_SLOPE)
        self.leave_norm = nn.BatchNorm2d(outputs)
        self.attention = (
            make_convolution(2 * width, 2, 1, seed=seed, name=f"{name}.attention", bias=True) if fuses else None
        )

    def forward(self, features: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        mixed = _normalised(convolve(features, self.enter), self.enter_norm)
        if self.attention is not None and residual is not None:
            below = functional.interpolate(residual, mixed.shape[2:], mode="nearest")
            ours, theirs = convolve(torch.cat([mixed, below], 1), self.attention).sigmoid().split(1, 1)
            mixed = ours * mixed + theirs * below
        return _normalised(convolve(mixed, self.leave), self.leave_norm), mixed


def _normalised(maps: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch normalisation; by the running statistics where the batch has no spread (at most one value a channel)."""
    if norm.training and maps.shape[0] * maps.shape[2] * maps.shape[3] > 1:
        return norm(maps)
    return functional.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def _mean_square(gap: Tensor) -> Tensor:
    return gap.flatten(1).square().mean(-1)
