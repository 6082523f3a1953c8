"""Objectives on labels; the teacher's answer stands in for the label."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from attar.objectives.supervised import binary_cross_entropy, cross_entropy, squared_error
from objectives.laws.entry import NO_TEMPERATURE, NUMBER, Entry

ENTROPY = "at the best student it is the entropy of the (smoothed) label, not 0"


def of_answers(function: Callable[..., Tensor], **options: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda student, teacher: function(student, teacher.argmax(-1), **options)


def of_cells(student: Tensor, teacher: Tensor) -> Tensor:
    return binary_cross_entropy(student[:, 0] - student[:, 1], (teacher[:, 0] > teacher[:, 1]).to(teacher.dtype))


def of_numbers(student: Tensor, teacher: Tensor) -> Tensor:
    return squared_error(student[:, 0], teacher[:, 0])


SUPERVISED = [
    Entry(
        "hard_labels",
        "cross_entropy",
        of_answers(cross_entropy),
        {"divergence": ENTROPY, "temperature_power": NO_TEMPERATURE},
    ),
    Entry(
        "hard_labels",
        "cross_entropy smoothed",
        of_answers(cross_entropy, label_smoothing=0.1),
        {"divergence": ENTROPY, "temperature_power": NO_TEMPERATURE},
    ),
    Entry(
        "hard_labels",
        "binary_cross_entropy",
        of_cells,
        {"divergence": ENTROPY, "infinite": "one cell is one logit, and finite", "temperature_power": NO_TEMPERATURE},
        width=2,
    ),
    Entry(
        "hard_labels",
        "squared_error",
        of_numbers,
        {"shift_invariant": NUMBER, "infinite": "a number is finite", "temperature_power": NO_TEMPERATURE},
        width=1,
    ),
]
