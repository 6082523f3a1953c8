"""Objectives on dense logits."""

from __future__ import annotations

import numpy as np
from scipy.special import entr, expit, rel_entr, softmax
from scipy.stats import pearsonr, zscore


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


def taid(student: np.ndarray, teacher: np.ndarray, progress: float) -> np.ndarray:
    """The target as the normalised geometric mean of both distributions."""
    p, q = softmax(teacher, axis=-1), softmax(student, axis=-1)
    mean = p**progress * q ** (1 - progress)
    return kl(mean / mean.sum(-1, keepdims=True), q)


def dkd(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """Row by row, the label's column taken out of each side."""
    found = []
    for p, q, label in zip(softmax(teacher, axis=-1), softmax(student, axis=-1), labels, strict=True):
        rest_p, rest_q = np.delete(p, label), np.delete(q, label)
        sure = kl(np.array([p[label], rest_p.sum()]), np.array([q[label], rest_q.sum()]))
        found.append(alpha * sure + beta * kl(rest_p / rest_p.sum(), rest_q / rest_q.sum()))
    return np.array(found)


def ofa(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, gamma: float) -> np.ndarray:
    hot = np.eye(student.shape[-1])[labels]
    weight = (softmax(teacher, axis=-1) + hot) ** gamma - hot
    return -(weight * np.log(softmax(student, axis=-1))).sum(-1)


def sampled_token(student: np.ndarray, teacher: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    drawn = np.arange(len(tokens)), tokens
    p, q = softmax(teacher, axis=-1)[drawn], softmax(student, axis=-1)[drawn]
    return np.log(q / p) * np.log(q)


def contrastive_skew(student: np.ndarray, teacher: np.ndarray, on_policy: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    p, q = softmax(teacher, axis=-1), softmax(student, axis=-1)
    share = alpha[:, None]
    return np.where(on_policy, kl(q, (1 - share) * p + share * q), kl(p, share * p + (1 - share) * q))


def dist(student: np.ndarray, teacher: np.ndarray, beta: float, gamma: float) -> float:
    """By scipy's correlation, line by line."""
    p, q = softmax(teacher, axis=-1), softmax(student, axis=-1)
    rows = np.mean([1 - pearsonr(mine, theirs).statistic for mine, theirs in zip(q, p, strict=True)])
    columns = np.mean([1 - pearsonr(mine, theirs).statistic for mine, theirs in zip(q.T, p.T, strict=True)])
    return float(beta * rows + gamma * columns)
