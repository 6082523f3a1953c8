"""Each objective on logits against the float64 oracle, and against what torch has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attar.errors import TrainingError
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
from objectives.draws import batch
from objectives.oracles import response as oracle

LABELS = torch.tensor([0, 10, 3, 3, 7])
OWN = torch.tensor([True, False, True, True, False])
SHARES = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
VALUES = {
    "forward_kl": (forward_kl, oracle.forward_kl),
    "reverse_kl": (reverse_kl, oracle.reverse_kl),
    "logit_mse": (logit_mse, oracle.logit_mse),
    "jsd_0.2": (lambda s, t: jsd(s, t, beta=0.2), lambda s, t: oracle.jsd(s, t, 0.2)),
    "jsd_0.5": (jsd, lambda s, t: oracle.jsd(s, t, 0.5)),
    "skew_kl": (skew_kl, lambda s, t: oracle.skew_kl(s, t, 0.1)),
    "skew_reverse_kl_0.3": (
        lambda s, t: skew_reverse_kl(s, t, alpha=0.3),
        lambda s, t: oracle.skew_reverse_kl(s, t, 0.3),
    ),
    "adaptive_kl": (adaptive_kl, lambda s, t: oracle.adaptive_kl(s, t, 0.5)),
    "todi": (todi, oracle.todi),
    "alpha_beta": (alpha_beta, lambda s, t: oracle.alpha_beta(s, t, 0.5, 0.5)),
    "alpha_beta_0.2_0.7": (
        lambda s, t: alpha_beta(s, t, alpha=0.2, beta=0.7),
        lambda s, t: oracle.alpha_beta(s, t, 0.2, 0.7),
    ),
    "total_variation": (total_variation, oracle.total_variation),
    "taid_0.3": (lambda s, t: taid(s, t, progress=0.3), lambda s, t: oracle.taid(s, t, 0.3)),
    "taid_of_a_tensor": (lambda s, t: taid(s, t, progress=torch.tensor(0.75)), lambda s, t: oracle.taid(s, t, 0.75)),
    "dkd": (lambda s, t: dkd(s, t, labels=LABELS), lambda s, t: oracle.dkd(s, t, LABELS.numpy(), 1.0, 8.0)),
    "dkd_0.5_2": (
        lambda s, t: dkd(s, t, labels=LABELS, alpha=0.5, beta=2.0),
        lambda s, t: oracle.dkd(s, t, LABELS.numpy(), 0.5, 2.0),
    ),
    "ofa": (lambda s, t: ofa(s, t, labels=LABELS), lambda s, t: oracle.ofa(s, t, LABELS.numpy(), 1.0)),
    "ofa_1.5": (lambda s, t: ofa(s, t, labels=LABELS, gamma=1.5), lambda s, t: oracle.ofa(s, t, LABELS.numpy(), 1.5)),
    "sampled_token": (
        lambda s, t: sampled_token(s, t, token_ids=LABELS),
        lambda s, t: oracle.sampled_token(s, t, LABELS.numpy()),
    ),
    "contrastive_skew": (
        lambda s, t: contrastive_skew(s, t, on_policy=OWN),
        lambda s, t: oracle.contrastive_skew(s, t, OWN.numpy(), np.full(5, 0.1)),
    ),
    "contrastive_skew_of_shares": (
        lambda s, t: contrastive_skew(s, t, on_policy=OWN, alpha=SHARES),
        lambda s, t: oracle.contrastive_skew(s, t, OWN.numpy(), SHARES.numpy()),
    ),
    "dist": (dist, lambda s, t: oracle.dist(s, t, 1.0, 1.0)),
    "dist_3_0.5": (lambda s, t: dist(s, t, beta=3.0, gamma=0.5), lambda s, t: oracle.dist(s, t, 3.0, 0.5)),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0])
def test_value_is_the_oracles(name: str, scale: float) -> None:
    ours, theirs = VALUES[name]
    student, teacher = batch(scale=scale)
    expected = theirs(student.numpy(), teacher.numpy())
    value, rounded = ours(student, teacher), ours(student.float(), teacher.float())
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(rounded.numpy(), expected, rtol=1e-3, atol=1e-6)
    assert (value.dtype, rounded.dtype) == (torch.float64, torch.float32)


def test_gradient_of_forward_kl_is_q_minus_p() -> None:
    student, teacher = batch()
    forward_kl(student.requires_grad_(), teacher).sum().backward()
    torch.testing.assert_close(student.grad, student.detach().softmax(-1) - teacher.softmax(-1))


def test_forward_kl_agrees_with_torch() -> None:
    student, teacher = batch()
    pair = student.log_softmax(-1), teacher.log_softmax(-1)
    torch.testing.assert_close(
        forward_kl(student, teacher), functional.kl_div(*pair, reduction="none", log_target=True).sum(-1)
    )
    torch.testing.assert_close(
        reverse_kl(student, teacher), functional.kl_div(*pair[::-1], reduction="none", log_target=True).sum(-1)
    )


def test_forward_kl_holds_the_teachers_entropy() -> None:
    """A "KL" that is a cross-entropy has the right gradient and the wrong value."""
    student, teacher = batch()
    p = teacher.softmax(-1)
    soft = functional.cross_entropy(student, p, reduction="none")
    entropy = torch.special.entr(p).sum(-1)
    torch.testing.assert_close(forward_kl(student, teacher), soft - entropy)


def test_logit_mse_is_the_hot_limit_of_kl() -> None:
    student, teacher = batch(scale=1.0)
    hot = 1e4
    torch.testing.assert_close(
        2 * 11 * hot**2 * forward_kl(student / hot, teacher / hot), logit_mse(student, teacher), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(logit_mse(student, teacher, centre=False), (student - teacher).pow(2).sum(-1))


@pytest.mark.parametrize("function", [dkd, ofa])
@pytest.mark.parametrize("label", [-1, -100, 11])
def test_label_out_of_range_is_named(function: Callable[..., Tensor], label: int) -> None:
    with pytest.raises(TrainingError, match=rf"{function.__name__}: label {label} of labelled row 1 .* 0\.\.10"):
        function(*batch(2), labels=torch.tensor([0, label]))


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (taid, {"progress": 1.5}, r"taid: progress is 1\.5"),
        (dkd, {"labels": LABELS, "beta": -1.0}, r"dkd: alpha is 1\.0 and beta -1\.0"),
        (ofa, {"labels": LABELS, "gamma": 0.0}, r"ofa: gamma is 0\.0"),
        (contrastive_skew, {"on_policy": OWN, "alpha": 0.0}, r"contrastive_skew: alpha is 0\.0"),
        (dist, {"beta": -1.0}, r"dist: beta is -1\.0"),
    ],
)
def test_option_out_of_range_is_named(function: Callable[..., Tensor], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(*batch(), **options)
