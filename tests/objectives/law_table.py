"""Which laws hold for which objective, and why the others don't. A kind that is missing fails a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from attar.objectives.hidden import cosine_distance, mse_distance
from attar.objectives.response import (
    adaptive_kl,
    alpha_beta,
    forward_kl,
    jsd,
    logit_mse,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    todi,
    total_variation,
)
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
    power: int = 2
    """Of the temperature, that the reduction multiplies by."""

    def declares(self) -> dict[str, bool | int | None]:
        broken = {law: None if law == "temperature_power" else False for law in self.broken}
        return {"width": self.width, "temperature_power": self.power} | broken


RESCALED = "a temperature only rescales it, by 1 / T^2, so its square would make it do nothing"
NOT_LOGITS = "hidden states are vectors: their origin means something"
NO_INFINITY = "hidden states are finite"
NO_TEMPERATURE = "labels and hidden states know no temperature"
NUMBER = "a regression's number is not a logit"
ENTROPY = "at the best student it is the entropy of the (smoothed) label, not 0"
HELD = {"finite_differences": "its weights are held constant in the gradient"}
FEATURE = {"shift_invariant": NOT_LOGITS, "infinite": NO_INFINITY, "temperature_power": NO_TEMPERATURE}


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
        {"temperature_power": "the z-score takes a temperature away again; the reduction divides after it"},
    ),
    Entry("reverse_kl", "reverse_kl", reverse_kl),
    *[Entry("jsd", f"jsd beta {beta}", partial(jsd, beta=beta)) for beta in (0.0, 0.1, 0.5, 0.9, 1.0)],
    *[Entry("skew_kl", f"skew_kl alpha {alpha}", partial(skew_kl, alpha=alpha)) for alpha in (0.0, 0.1, 0.9)],
    *[
        Entry("skew_reverse_kl", f"skew_reverse_kl alpha {alpha}", partial(skew_reverse_kl, alpha=alpha))
        for alpha in (0.0, 0.1, 0.9)
    ],
    Entry("adaptive_kl", "adaptive_kl", adaptive_kl, HELD),
    Entry("todi", "todi", todi, HELD),
    *[
        Entry("alpha_beta", f"alpha_beta {alpha} {beta}", partial(alpha_beta, alpha=alpha, beta=beta))
        for alpha, beta in ((0.5, 0.5), (0.2, 0.7), (1.5, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.4))
    ],
    Entry("total_variation", "total_variation", total_variation, power=1),
    Entry("logit_mse", "logit_mse", logit_mse, {"temperature_power": RESCALED}),
    Entry(
        "logit_mse",
        "logit_mse of numbers",
        partial(logit_mse, centre=False),
        {"shift_invariant": NUMBER, "infinite": "a number is finite", "temperature_power": RESCALED},
        width=1,
    ),
    Entry("hidden", "cosine_distance", cosine_distance, FEATURE),
    Entry("hidden", "mse_distance", mse_distance, FEATURE),
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
