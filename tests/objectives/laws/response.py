"""Objectives on dense logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from attar.objectives.response import (
    adaptive_kl,
    alpha_beta,
    contrastive_skew,
    dist,
    dkd,
    forward_kl,
    jsd,
    logit_mse,
    ofa,
    reverse_kl,
    sampled_token,
    skew_kl,
    skew_reverse_kl,
    taid,
    todi,
    total_variation,
)
from attar.objectives.transform import standardise_logits
from objectives.laws.batch import BatchEntry
from objectives.laws.entry import NUMBER, Entry

RESCALED = "a temperature only rescales it, by 1 / T^2, so its square would make it do nothing"
HELD = {"finite_differences": "a part of it is held constant in the gradient"}
CROSS_ENTROPY = {
    "divergence": "at the best student it is the entropy of the weights, not 0",
    "temperature_power": "hot, it is the entropy of a uniform answer, whatever the temperature",
}
ESTIMATE = {
    "divergence": "it is signed: only its gradient is that of a divergence, and only on average",
    "temperature_power": "its expected value is no divergence; its expected gradient is that of reverse_kl",
}


def standardised(student: Tensor, teacher: Tensor) -> Tensor:
    return forward_kl(standardise_logits(student), standardise_logits(teacher))


def labelled(function: Callable[..., Tensor], **options: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The teacher's answer stands in for the label."""
    return lambda student, teacher: function(student, teacher, labels=teacher.argmax(-1), **options)


def drawn(student: Tensor, teacher: Tensor) -> Tensor:
    return sampled_token(student, teacher, token_ids=teacher.argmax(-1))


def contrasted(student: Tensor, teacher: Tensor) -> Tensor:
    """Rows on which the teacher is sure stand in for the student's text; each row has a share of its own."""
    sure = teacher.detach().softmax(-1).amax(-1)
    return contrastive_skew(student, teacher, on_policy=sure > 0.5, alpha=0.01 + 0.1 * sure)


def all_rows(*, on_policy: bool) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda student, teacher: contrastive_skew(
        student, teacher, on_policy=torch.full(student.shape[:1], on_policy)
    )


RESPONSE = [
    Entry("forward_kl", "forward_kl", forward_kl),
    Entry(
        "forward_kl",
        "standardise_logits for forward_kl",
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
    *[Entry("taid", f"taid at {progress}", partial(taid, progress=progress), HELD) for progress in (0.1, 0.5, 1.0)],
    Entry("dkd", "dkd", labelled(dkd)),
    Entry("dkd", "dkd of the label", labelled(dkd, beta=0.0)),
    Entry("dkd", "dkd of two classes", labelled(dkd), width=2),
    *[Entry("ofa", f"ofa gamma {gamma}", labelled(ofa, gamma=gamma), CROSS_ENTROPY) for gamma in (1.0, 1.5, 0.5)],
    Entry("sampled_token", "sampled_token", drawn, HELD | ESTIMATE),
    Entry("contrastive_skew", "contrastive_skew of both", contrasted, HELD),
    Entry("contrastive_skew", "contrastive_skew on policy", all_rows(on_policy=True), HELD),
    Entry("contrastive_skew", "contrastive_skew off policy", all_rows(on_policy=False)),
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
]

RESPONSE_BATCH = [
    BatchEntry(
        "dist",
        name,
        partial(dist, beta=beta, gamma=gamma),
        broken,
        invariances=("student_shift", "teacher_shift"),
    )
    for name, beta, gamma, broken in (
        ("dist", 1.0, 1.0, {"lone_row": "a row has a correlation of its own"}),
        ("dist of columns", 0.0, 2.0, {}),
    )
]
