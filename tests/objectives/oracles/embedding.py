"""Objectives of embedding and ranking models."""

from __future__ import annotations

import numpy as np
from scipy.special import rel_entr


def margin_mse(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """[N, L]; -inf on both sides where there is no document."""
    values = []
    for ours, theirs in zip(student, teacher, strict=True):
        there = [j for j in range(1, len(ours)) if np.isfinite(theirs[0]) and np.isfinite(theirs[j])]
        errors = [((ours[0] - ours[j]) - (theirs[0] - theirs[j])) ** 2 for j in there]
        values.append(np.mean(errors) if errors else 0.0)
    return np.array(values)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return one @ other / np.sqrt((one @ one) * (other @ other))


def softmax(scores: list[float], temperature: float) -> np.ndarray:
    power = np.exp(np.array(scores) / temperature)
    return power / power.sum()


def similarity_distribution(
    student: np.ndarray,
    teacher: np.ndarray,
    student_queue: np.ndarray,
    teacher_queue: np.ndarray,
    temperatures: tuple[float, float],
) -> np.ndarray:
    values = []
    for ours, theirs in zip(student, teacher, strict=True):
        q = softmax([cosine(ours, other) for other in student_queue], temperatures[0])
        p = softmax([cosine(theirs, other) for other in teacher_queue], temperatures[1])
        values.append(rel_entr(p, q).sum())
    return np.array(values)


def batch_similarity_distribution(
    student: np.ndarray, teacher: np.ndarray, temperatures: tuple[float, float]
) -> np.floating:
    values = []
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i]
        row = student[[i]], teacher[[i]], student[others], teacher[others], temperatures
        values.append(similarity_distribution(*row)[0])
    return np.mean(values)


def static_embeddings(vectors: np.ndarray, dimensions: int, p: np.ndarray, a: float) -> np.ndarray:
    """By the singular value decomposition; signs as documented."""
    centred = vectors - vectors.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:dimensions]
    signs = [np.sign(direction[np.abs(direction).argmax()]) for direction in directions]
    scores = np.stack([sign * (centred @ direction) for sign, direction in zip(signs, directions, strict=True)], -1)
    return scores * np.array([a / (a + probability) for probability in p])[:, None]
