"""What logits say: answers, probabilities, agreement and divergence of two models. Numpy only.

Shape letters: N rows, C outputs (logits). `single_label` answers with the largest logit, `multi_label` with every label
whose probability exceeds 0.5, `regression` with the number itself.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def answers(logits: Array, problem: Literal["single_label", "multi_label", "regression"]) -> Array:
    """Answers of logits [N, C]: int64 [N] label ids, bool [N, C] chosen labels, or float64 [N] numbers."""
    match problem:
        case "single_label":
            return logits.argmax(-1)
        case "multi_label":
            return logits > 0
        case "regression":
            return logits.astype(np.float64).reshape(len(logits))


def log_probabilities(logits: Array, problem: Literal["single_label", "multi_label"]) -> Array:
    """Natural logarithms of probabilities, float64: [N, C] over labels, or [N * C, 2] (yes, no) for `multi_label`."""
    z = logits.astype(np.float64)
    if problem == "multi_label":
        z = np.stack([z.reshape(-1) / 2, -z.reshape(-1) / 2], -1)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def probabilities(logits: Array, problem: Literal["single_label", "multi_label"]) -> Array:
    """Probabilities [N, C], float64: rows sum to 1 for `single_label`; each label apart for `multi_label`."""
    p = np.exp(log_probabilities(logits, problem))
    return p if problem == "single_label" else p[:, 0].reshape(logits.shape)


def same_answer(one: Array, other: Array, problem: Literal["single_label", "multi_label"]) -> NDArray[np.bool_]:
    """Per row [N]: do two models (logits [N, C] each) give the same answer? `multi_label`: the same set of labels."""
    same = answers(one, problem) == answers(other, problem)
    return same if same.ndim == 1 else same.all(-1)


def correlation(x: Array, y: Array) -> float:
    """Pearson correlation of two vectors [N]; 1 where both are equal, 0 where only one of them does not vary."""
    if np.array_equal(x, y):
        return 1.0
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1.0, 1.0))


def agreement(one: Array, other: Array, problem: Literal["single_label", "multi_label", "regression"]) -> float:
    """Share of rows with the same answer, 0..1; for `regression` the Pearson correlation of the two, -1..1."""
    if problem == "regression":
        return correlation(answers(one, problem), answers(other, problem))
    return float(same_answer(one, other, problem).mean())


def mean_kl(teacher: Array, student: Array, problem: Literal["single_label", "multi_label"]) -> float:
    """Mean KL(teacher || student) of logits [N, C], nats; `multi_label`: mean over rows and labels of the binary KL."""
    p, q = log_probabilities(teacher, problem), log_probabilities(student, problem)
    return max(0.0, float((np.exp(p) * (p - q)).sum(-1).mean()))
