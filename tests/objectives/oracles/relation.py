"""Objectives on how the rows of a batch lie to one another."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize


def cka(student: np.ndarray, teacher: np.ndarray) -> float:
    """1 - HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), with the centring matrix H and traces, as the paper defines it."""
    rows = len(student)
    centring = np.eye(rows) - 1 / rows
    grams = [side @ side.T for side in (student, teacher)]

    def hsic(one: np.ndarray, other: np.ndarray) -> float:
        return np.trace(one @ centring @ other @ centring) / (rows - 1) ** 2

    return 1 - hsic(*grams) / np.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))


def huber(gap: float) -> float:
    return gap**2 / 2 if abs(gap) < 1 else abs(gap) - 0.5


def rkd_distance(student: np.ndarray, teacher: np.ndarray) -> float:
    relative = []
    for side in (student, teacher):
        distances = cdist(side, side)
        relative.append(distances / distances[distances > 0].mean())
    return np.mean([huber(gap) for gap in (relative[0] - relative[1]).ravel()])


def rkd_angle(student: np.ndarray, teacher: np.ndarray) -> float:
    """Corner by corner, in a plain loop."""

    def angle(side: np.ndarray, i: int, j: int, k: int) -> float:
        one, other = side[j] - side[i], side[k] - side[i]
        lengths = np.linalg.norm(one) * np.linalg.norm(other)
        return one @ other / lengths if lengths else 0.0

    corners = list(product(range(len(student)), repeat=3))
    return sum(huber(angle(student, *c) - angle(teacher, *c)) for c in corners) / len(corners)


def similarity_preserving(student: np.ndarray, teacher: np.ndarray) -> float:
    grams = [normalize(side @ side.T) for side in (student, teacher)]
    return ((grams[0] - grams[1]) ** 2).sum() / len(student) ** 2


def crd(
    student: np.ndarray,
    teacher: np.ndarray,
    student_negatives: np.ndarray,
    teacher_negatives: np.ndarray,
    temperature: float,
) -> float:
    """Anchor by anchor: h = e^c / (e^c + K m), m the mean of e^c over all anchors' negatives."""
    loss = 0.0
    for anchors, others, queue in ((student, teacher, teacher_negatives), (teacher, student, student_negatives)):
        scores = np.exp(cosine_similarity(anchors, np.concatenate([others, queue])) / temperature)
        negatives = [np.delete(row, at) for at, row in enumerate(scores)]
        noise = len(negatives[0]) * np.mean(negatives)
        for at, row in enumerate(scores):
            loss -= np.log(row[at] / (row[at] + noise)) + np.log(noise / (negatives[at] + noise)).sum()
    return loss / len(student)
