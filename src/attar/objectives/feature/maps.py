"""Objectives on feature maps, one value a row, and how maps of other channels or size are made to meet.

Shape letters: N rows, C channels, H x W pixels.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from attar.objectives.feature.hidden import cosine_distance, mse_distance
from attar.objectives.response import forward_kl


def fitnet(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference mean_chw (f_s - f_t)^2 per row. FitNets, Romero et al. 2014 (arXiv:1412.6550).

    [N, C, H_s, W_s] and [N, C, H_t, W_t], float32 or float64; the larger map is averaged down to the smaller. Returns
    [N], >= 0. No gradient reaches the teacher.

    It is `mse_distance` of all of a map's numbers. Where channels differ the student is seen through a learned
    regressor: here a 1 x 1 convolution (`make_convolution`), in the paper one so large that it also fits the size. The
    paper halves the sum of squares; its loss is H W C / 2 times this one. Choose it within an architecture family;
    across families, siblings that compare less of a map: `attention_transfer`, `channel_wise`.
    """
    student, teacher = at_one_size(student, teacher)
    return mse_distance(student.flatten(1), teacher.flatten(1))


def attention_transfer(student: Tensor, teacher: Tensor, *, power: float = 2.0) -> Tensor:
    """1/(H W) || a_s - a_t ||^2 per row, a the direction of the flattened map mean_c |f_c|^power. Zagoruyko &
    Komodakis 2016 (arXiv:1612.03928).

    [N, C_s, H_s, W_s] and [N, C_t, H_t, W_t], float32 or float64: channels need not agree, and the larger map is
    averaged down to the smaller. `power` >= 1. Returns [N], in [0, 4 / (H W)]; a map of zeros has no direction (see
    `cosine_distance`). No gradient reaches the teacher.

    As in the authors' code: the mean of squares over pixels. (The paper's equation has the norm itself, which has no
    gradient where both agree.) It says where a map looks, not what it sees: blind to the map's scale. Published
    weights are near 1000 as the values are that small. Keep it within an architecture family: from ResNet-50 to
    MobileNetV2 it left a student worse than without a teacher (arXiv:1910.10699). Siblings: `channel_wise`, `fitnet`.
    """
    if power < 1.0:
        raise ValueError(f"attention_transfer: power is {power}; below 1 a feature of 0 has no gradient, so power >= 1")
    student, teacher = at_one_size(student, teacher)
    ours, theirs = (side.abs().pow(power).mean(1).flatten(1) for side in (student, teacher.detach()))
    return cosine_distance(ours, theirs) * (2.0 / ours.shape[1])


def channel_wise(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_c KL(softmax_hw(f_t,c) || softmax_hw(f_s,c)) per row, in nats. CWD, Shu et al. 2020 (arXiv:2011.13256).

    [N, C, H_s, W_s] and [N, C, H_t, W_t], float32 or float64; -inf allowed where both have it; the larger map is
    averaged down to the smaller. Returns [N], in [0, inf]. A temperature T (4 in the paper, 1 for maps of logits)
    divides both maps and its square multiplies, as for `forward_kl`, which this is on every channel's pixels. The mean
    over channels is the authors': T^2 / C. No gradient reaches the teacher.

    Made for dense prediction: the student learns where each channel is active, blind to a number added to a channel.
    Channels must agree (a 1 x 1 convolution makes them). Siblings: `attention_transfer` (all channels as one), `fitnet`
    (every number).
    """
    student, teacher = at_one_size(student, teacher)
    pixels = forward_kl(student.flatten(0, 1).flatten(1), teacher.flatten(0, 1).flatten(1))
    return pixels.unflatten(0, student.shape[:2]).mean(-1)


def at_one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps [N, C, H, W] at the smaller height and width of the two, by averages over bins; equal ones as they are.

    Bins cover a map evenly and may overlap by a pixel where sizes do not divide, as torch's adaptive pooling does.
    """
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return _averaged(student, size), _averaged(teacher, size)


def _averaged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else functional.adaptive_avg_pool2d(maps, size)
