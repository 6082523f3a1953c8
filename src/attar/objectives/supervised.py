"""Objectives on the data's own labels, one value a row. Rows without a label are left out before, by the reduction.

Shape letters: N rows, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from attar.errors import TrainingError


def cross_entropy(student_logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-sum_c y_c log q_c per row, in nats, y = (1 - e) onehot(label) + e / C. Smoothing: arXiv:1512.00567.

    `student_logits` [N, C], float32 or float64, -inf allowed elsewhere than at the label; `labels` int64 [N] in
    0..C-1; `label_smoothing` e in 0..1 is spread over the finite classes (all C, as in torch, where none is -inf).
    Returns [N], >= 0, least at q = y, where it is the entropy of y. Raises TrainingError on a label outside 0..C-1.

    One label a row; siblings: `binary_cross_entropy` (any number of labels), `squared_error` (a number).
    """
    require_labels("hard_labels", labels, student_logits.shape[-1])
    log_q = student_logits.log_softmax(-1)
    chosen = -log_q.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    if not label_smoothing:
        return chosen
    finite = log_q > -float("inf")
    spread = -torch.where(finite, log_q, 0.0).sum(-1) / finite.sum(-1)
    return (1.0 - label_smoothing) * chosen + label_smoothing * spread


def binary_cross_entropy(student_logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-(y log sigmoid(z) + (1 - y) log sigmoid(-z)) per cell, in nats, y smoothed to (1 - e) y + e / 2.

    `student_logits` [N], float32 or float64, finite; `labels` [N] in 0..1 (a cell of a multi-label row is one row
    here). Returns [N], >= 0. It is the cross-entropy of the two-class row (z / 2, -z / 2). Sibling: `cross_entropy`.
    """
    target = (1.0 - label_smoothing) * labels + 0.5 * label_smoothing
    return target * functional.softplus(-student_logits) + (1.0 - target) * functional.softplus(student_logits)


def squared_error(student_logits: Tensor, labels: Tensor) -> Tensor:
    """(z - y)^2 per row, for regression. Both [N], float32 or float64, finite; returns [N], >= 0."""
    return (student_logits - labels).square()


def require_labels(name: str, labels: Tensor, classes: int) -> None:
    """Raise the TrainingError of objective `name` on a label outside 0..classes-1."""
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        row = int(outside.nonzero()[0, 0])
        raise TrainingError(
            f"{name}: label {int(labels[row])} of labelled row {row} is not one of the {classes} classes "
            f"0..{classes - 1} (-100 marks a row without label). Check the labels' order and number."
        )
