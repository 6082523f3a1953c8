"""Objectives on listed and sampled tokens, and between vocabularies: a plain loop over rows."""

from __future__ import annotations

import numpy as np
from scipy.special import rel_entr, softmax
from scipy.stats import wasserstein_distance


def lumped(probabilities: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """The listed tokens' probabilities, padding left out, and that of all the others."""
    kept = [token for token in listed if token >= 0]
    others = [token for token in range(len(probabilities)) if token not in kept]
    return np.array([*probabilities[kept], probabilities[others].sum()])


def sparse_kl(student: np.ndarray, teacher: np.ndarray, token_ids: np.ndarray, *, reverse: bool = False) -> np.ndarray:
    found = []
    for q, p, listed in zip(softmax(student, axis=-1), softmax(teacher, axis=-1), token_ids, strict=True):
        cells = lumped(p, listed), lumped(q, listed)
        found.append(rel_entr(*cells[:: -1 if reverse else 1]).sum())
    return np.array(found)


def sampled_kl(student: np.ndarray, teacher: np.ndarray, token_ids: np.ndarray, proposal: np.ndarray) -> np.ndarray:
    """The mean of p / r log(p / q) over the draws."""
    found = []
    for q, p, r, drawn in zip(softmax(student, axis=-1), softmax(teacher, axis=-1), proposal, token_ids, strict=True):
        found.append(np.mean([p[token] / r[token] * np.log(p[token] / q[token]) for token in drawn]))
    return np.array(found)


def uld(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """The width times the earth mover's distance between both sides' bags of numbers."""
    found = []
    for q, p in zip(softmax(student, axis=-1), softmax(teacher, axis=-1), strict=True):
        found.append(by_rank(q, p))
    return np.array(found)


def by_rank(q: np.ndarray, p: np.ndarray) -> float:
    width = max(len(q), len(p))
    if width == 0:
        return 0.0
    return width * wasserstein_distance(np.pad(q, (0, width - len(q))), np.pad(p, (0, width - len(p))))


def aligned(
    student: np.ndarray, teacher: np.ndarray, pairs: list[tuple[int, int]], share: float | None = None
) -> np.ndarray:
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    weight = len(pairs) / teacher.shape[-1] if share is None else share
    found = []
    for q, p in zip(softmax(student, axis=-1), softmax(teacher, axis=-1), strict=True):
        kl = rel_entr(lumped(p, np.array(theirs, int)), lumped(q, np.array(ours, int))).sum()
        found.append(weight * kl + (1 - weight) * by_rank(np.delete(q, ours), np.delete(p, theirs)))
    return np.array(found)


def projected_kl(student: np.ndarray, teacher: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    reached = matrix.sum(0) > 0
    target = softmax(teacher, axis=-1) * reached
    return rel_entr(target / target.sum(-1, keepdims=True), softmax(student, axis=-1) @ matrix).sum(-1)


def span_kl(token_probabilities: list[float], span_probability: float) -> float:
    p, q = span_probability, float(np.prod(token_probabilities))
    return float(rel_entr([p, 1 - p], [q, 1 - q]).sum())
