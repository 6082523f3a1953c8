"""The objectives once more, in numpy and scipy, float64, from the formulas alone; no code is shared with attar."""

from __future__ import annotations

import numpy as np
from scipy.special import entr, expit, rel_entr, softmax
from scipy.stats import zscore


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return rel_entr(p, q).sum(-1)


def forward_kl(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    return kl(softmax(teacher, axis=-1), softmax(student, axis=-1))


def reverse_kl(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    return kl(softmax(student, axis=-1), softmax(teacher, axis=-1))


def jsd(student: np.ndarray, teacher: np.ndarray, beta: float) -> np.ndarray:
    """By entropies: H(m) - beta H(p) - (1 - beta) H(q)."""
    p, q = softmax(teacher, axis=-1), softmax(student, axis=-1)
    m = beta * p + (1 - beta) * q
    return entr(m).sum(-1) - beta * entr(p).sum(-1) - (1 - beta) * entr(q).sum(-1)


def skew_kl(student: np.ndarray, teacher: np.ndarray, alpha: float) -> np.ndarray:
    p, q = softmax(teacher, axis=-1), softmax(student, axis=-1)
    return kl(p, alpha * p + (1 - alpha) * q)


def skew_reverse_kl(student: np.ndarray, teacher: np.ndarray, alpha: float) -> np.ndarray:
    p, q = softmax(teacher, axis=-1), softmax(student, axis=-1)
    return kl(q, (1 - alpha) * p + alpha * q)


def adaptive_kl(student: np.ndarray, teacher: np.ndarray, head: float) -> np.ndarray:
    """Row by row, with a plain loop over the teacher's outputs from the likeliest on."""
    found = []
    for p, q in zip(softmax(teacher, axis=-1), softmax(student, axis=-1), strict=True):
        held, worse = 0.0, [0.0, 0.0]
        for place, index in enumerate(np.argsort(-p)):
            held += p[index]
            worse[int(place > 0 and held > head)] += abs(p[index] - q[index])
        share = worse[0] / sum(worse)
        found.append(share * kl(p, q) + (1 - share) * kl(q, p))
    return np.array(found)


def todi(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    p, q = softmax(teacher, axis=-1), softmax(student, axis=-1)
    weight = expit(np.log(p) - np.log(q))
    return (weight * rel_entr(p, q) + (1 - weight) * rel_entr(q, p)).sum(-1)


def alpha_beta(student: np.ndarray, teacher: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    p, q = softmax(teacher, axis=-1), softmax(student, axis=-1)
    total = alpha + beta
    terms = p**alpha * q**beta - alpha / total * p**total - beta / total * q**total
    return -terms.sum(-1) / (alpha * beta)


def total_variation(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """The probability that the likelier of both must give up: sum of the positive parts."""
    return np.maximum(softmax(teacher, axis=-1) - softmax(student, axis=-1), 0).sum(-1)


def logit_mse(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """V times the variance of the difference over V."""
    return (student - teacher).var(-1) * student.shape[-1]


def standardise(logits: np.ndarray) -> np.ndarray:
    return zscore(logits, axis=-1, ddof=1)


def cross_entropy(student: np.ndarray, labels: np.ndarray, smoothing: float) -> np.ndarray:
    classes = student.shape[-1]
    target = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    return -(target * np.log(softmax(student, axis=-1))).sum(-1)


def binary_cross_entropy(student: np.ndarray, labels: np.ndarray, smoothing: float) -> np.ndarray:
    target = (1 - smoothing) * labels + smoothing / 2
    return -target * np.log(expit(student)) - (1 - target) * np.log(expit(-student))


def cosine_distance(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    dot = (student * teacher).sum(-1)
    return 1 - dot / np.sqrt((student**2).sum(-1) * (teacher**2).sum(-1))


def mse_distance(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    return ((student - teacher) ** 2).sum(-1) / student.shape[-1]
