"""Objectives on hidden states, feature maps and self-attention."""

from __future__ import annotations

import numpy as np
from scipy.special import rel_entr, softmax


def cosine_distance(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    dot = (student * teacher).sum(-1)
    return 1 - dot / np.sqrt((student**2).sum(-1) * (teacher**2).sum(-1))


def mse_distance(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    return ((student - teacher) ** 2).sum(-1) / student.shape[-1]


def averaged(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bin by bin: from the floor of a bin's start to the ceiling of its end."""
    rows, columns = maps.shape[2:]
    bins = np.empty((*maps.shape[:2], height, width))
    for y, x in np.ndindex(height, width):
        down = slice(y * rows // height, -(-(y + 1) * rows // height))
        across = slice(x * columns // width, -(-(x + 1) * columns // width))
        bins[:, :, y, x] = maps[:, :, down, across].mean((2, 3))
    return bins


def at_one_size(student: np.ndarray, teacher: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = np.minimum(student.shape[2:], teacher.shape[2:])
    return averaged(student, *size), averaged(teacher, *size)


def fitnet(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    student, teacher = at_one_size(student, teacher)
    return ((student - teacher) ** 2).mean((1, 2, 3))


def attention_transfer(student: np.ndarray, teacher: np.ndarray, power: float) -> np.ndarray:
    maps = [(np.abs(side) ** power).mean(1) for side in at_one_size(student, teacher)]
    ours, theirs = (side / np.sqrt((side**2).sum((1, 2), keepdims=True)) for side in maps)
    return ((ours - theirs) ** 2).mean((1, 2))


def channel_wise(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    ours, theirs = (softmax(side, axis=(2, 3)) for side in at_one_size(student, teacher))
    return rel_entr(theirs, ours).sum((2, 3)).mean(1)


def hierarchical_context(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    student, teacher = at_one_size(student, teacher)
    values, weights = [((student - teacher) ** 2).mean((1, 2, 3))], [1.0]
    for level in (4, 2, 1):
        if level < min(student.shape[2:]):
            values.append(fitnet(averaged(student, level, level), averaged(teacher, level, level)))
            weights.append(weights[-1] / 2)
    return np.average(values, axis=0, weights=weights)


def attention_relations(student: np.ndarray, teacher: np.ndarray, heads: int, mask: np.ndarray) -> np.ndarray:
    """Row by row, on the tokens that count alone."""
    found = []
    for row, keep in enumerate(mask):
        values = []
        split = (np.split(side[row][keep], heads, axis=1) for side in (student, teacher))
        for ours, theirs in zip(*split, strict=True):
            s, t = (softmax(side @ side.T / np.sqrt(side.shape[1]), axis=1) for side in (ours, theirs))
            values.append(rel_entr(t, s).sum(1).mean())
        found.append(np.mean(values))
    return np.array(found)
