"""Which laws hold for which objective, and why the others don't. A kind that is missing fails a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from attar.objectives.hidden import cosine_distance, mse_distance
from attar.objectives.response import forward_kl, jsd, logit_mse, reverse_kl
from attar.objectives.supervised import binary_cross_entropy, cross_entropy, squared_error
from attar.objectives.transform import standardise_logits


@dataclass(frozen=True)
class Entry:
    """An objective as a function of both sides' rows, and the laws that it declares."""

    kind: str
    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    broken: dict[str, str] = field(default_factory=dict)
    """Law (an option of check_objective) -> why it does not hold."""
    width: int = 7

    def declares(self) -> dict[str, bool | int]:
        return {"width": self.width} | dict.fromkeys(self.broken, False)


RESCALED = "a temperature only rescales it, by 1 / T^2, so its square would make it do nothing"
NOT_LOGITS = "hidden states are vectors: their origin means something"
NO_INFINITY = "hidden states are finite"
NO_TEMPERATURE = "labels and hidden states know no temperature"
NUMBER = "a regression's number is not a logit"
ENTROPY = "at the best student it is the entropy of the (smoothed) label, not 0"
FEATURE = {"shift_invariant": NOT_LOGITS, "infinite": NO_INFINITY, "kl_family": NO_TEMPERATURE}


def of_answers(function: Callable[..., Tensor], **options: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Supervised: the teacher's answer stands in for the label."""
    return lambda student, teacher: function(student, teacher.argmax(-1), **options)


def of_cells(student: Tensor, teacher: Tensor) -> Tensor:
    return binary_cross_entropy(student[:, 0] - student[:, 1], (teacher[:, 0] > teacher[:, 1]).to(teacher.dtype))


def of_numbers(student: Tensor, teacher: Tensor) -> Tensor:
    return squared_error(student[:, 0], teacher[:, 0])


def standardised(student: Tensor, teacher: Tensor) -> Tensor:
    return forward_kl(standardise_logits(student), standardise_logits(teacher))


TABLE = [
    Entry("forward_kl", "forward_kl", forward_kl),
    Entry(
        "forward_kl",
        "forward_kl standardised",
        standardised,
        {"kl_family": "the z-score takes a temperature away again; the reduction divides after it"},
    ),
    Entry("reverse_kl", "reverse_kl", reverse_kl),
    *[Entry("jsd", f"jsd beta {beta}", partial(jsd, beta=beta)) for beta in (0.0, 0.1, 0.5, 0.9, 1.0)],
    Entry("logit_mse", "logit_mse", logit_mse, {"kl_family": RESCALED}),
    Entry(
        "logit_mse",
        "logit_mse of numbers",
        partial(logit_mse, centre=False),
        {"shift_invariant": NUMBER, "infinite": "a number is finite", "kl_family": RESCALED},
        width=1,
    ),
    Entry("hidden", "cosine_distance", cosine_distance, FEATURE),
    Entry("hidden", "mse_distance", mse_distance, FEATURE),
    Entry(
        "hard_labels",
        "cross_entropy",
        of_answers(cross_entropy),
        {"divergence": ENTROPY, "kl_family": NO_TEMPERATURE},
    ),
    Entry(
        "hard_labels",
        "cross_entropy smoothed",
        of_answers(cross_entropy, label_smoothing=0.1),
        {"divergence": ENTROPY, "kl_family": NO_TEMPERATURE},
    ),
    Entry(
        "hard_labels",
        "binary_cross_entropy",
        of_cells,
        {"divergence": ENTROPY, "infinite": "one cell is one logit, and finite", "kl_family": NO_TEMPERATURE},
        width=2,
    ),
    Entry(
        "hard_labels",
        "squared_error",
        of_numbers,
        {"shift_invariant": NUMBER, "infinite": "a number is finite", "kl_family": NO_TEMPERATURE},
        width=1,
    ),
]
