"""Each objective against the float64 oracle, and against torch and scikit-learn where they have the same function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import paired_cosine_distances
from torch import Tensor
from torch.nn import functional

from attar.errors import TrainingError
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
from objectives import oracle

DENSE = {
    "forward_kl": (forward_kl, oracle.forward_kl),
    "reverse_kl": (reverse_kl, oracle.reverse_kl),
    "logit_mse": (logit_mse, oracle.logit_mse),
    "cosine_distance": (cosine_distance, oracle.cosine_distance),
    "mse_distance": (mse_distance, oracle.mse_distance),
    "jsd_0.2": (lambda s, t: jsd(s, t, beta=0.2), lambda s, t: oracle.jsd(s, t, 0.2)),
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
    "jsd_0.5": (jsd, lambda s, t: oracle.jsd(s, t, 0.5)),
}


def batch(rows: int = 5, width: int = 11, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    student, teacher = scale * torch.randn(2, rows, width, dtype=torch.float64, generator=generator)
    return student, teacher


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0])
def test_value_is_the_oracles(name: str, scale: float) -> None:
    ours, theirs = DENSE[name]
    student, teacher = batch(scale=scale)
    expected = theirs(student.numpy(), teacher.numpy())
    np.testing.assert_allclose(ours(student, teacher).numpy(), expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(ours(student.float(), teacher.float()).numpy(), expected, rtol=1e-3, atol=1e-6)


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


def test_cosine_agrees_with_peers_and_keeps_its_digits_near_zero() -> None:
    student, teacher = batch()
    torch.testing.assert_close(
        cosine_distance(student, teacher), 1 - functional.cosine_similarity(student, teacher, dim=-1)
    )
    np.testing.assert_allclose(cosine_distance(student, teacher), paired_cosine_distances(student, teacher))
    near = (teacher + 1e-4 * student).float()
    exact = oracle.cosine_distance(near.double().numpy(), teacher.float().double().numpy())
    np.testing.assert_allclose(cosine_distance(near, teacher.float()), exact, rtol=0.01)


def test_zero_vector_has_a_finite_distance_and_gradient() -> None:
    zero = torch.zeros(1, 4, requires_grad=True)
    distance = cosine_distance(zero, torch.ones(1, 4))
    distance.sum().backward()
    assert distance.tolist() == [0.5]
    assert torch.isfinite(zero.grad).all()
    assert cosine_distance(zero, torch.zeros(1, 4)).tolist() == [0.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing: float) -> None:
    logits, _ = batch()
    labels = torch.tensor([0, 10, 3, 3, 7])
    value = cross_entropy(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(value, oracle.cross_entropy(logits.numpy(), labels.numpy(), smoothing), rtol=1e-9)
    torch.testing.assert_close(
        value, functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy(smoothing: float) -> None:
    logits = batch()[0][0]
    labels = torch.linspace(0, 1, 11, dtype=torch.float64)
    value = binary_cross_entropy(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(value, oracle.binary_cross_entropy(logits.numpy(), labels.numpy(), smoothing), rtol=1e-9)
    if not smoothing:
        peer = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        torch.testing.assert_close(value, peer)
        two = cross_two_classes(logits, labels)
        torch.testing.assert_close(value, two)


def cross_two_classes(logits: Tensor, labels: Tensor) -> Tensor:
    rows = 0.5 * torch.stack((logits, -logits), -1)
    return functional.cross_entropy(rows, torch.stack((labels, 1 - labels), -1), reduction="none")


def test_squared_error() -> None:
    assert squared_error(torch.tensor([1.0, -2.0]), torch.tensor([3.0, -2.0])).tolist() == [4.0, 0.0]


@pytest.mark.parametrize("label", [-1, -100, 11])
def test_label_out_of_range_is_named(label: int) -> None:
    with pytest.raises(TrainingError, match=rf"label {label} of labelled row 1 .* 0\.\.10"):
        cross_entropy(batch(2)[0], torch.tensor([0, label]))


def z_score_of_the_authors(logits: Tensor) -> Tensor:
    """Logit standardisation as the paper's authors compute it (arXiv:2403.01427)."""
    return (logits - logits.mean(-1, keepdim=True)) / (1e-7 + logits.std(-1, keepdim=True))


def test_standardise_logits() -> None:
    logits, _ = batch()
    np.testing.assert_allclose(standardise_logits(logits), oracle.standardise(logits.numpy()), rtol=1e-6)
    torch.testing.assert_close(standardise_logits(logits), z_score_of_the_authors(logits))
    torch.testing.assert_close(standardise_logits(3 * logits + 5), standardise_logits(logits))


def test_standardise_runs_over_finite_entries() -> None:
    logits, _ = batch()
    masked = logits.clone()
    masked[:, 4] = -torch.inf
    alive = [column for column in range(11) if column != 4]
    leaf = masked.requires_grad_()
    scored = standardise_logits(leaf)
    torch.testing.assert_close(scored[:, alive], standardise_logits(logits[:, alive]))
    assert (scored[:, 4] == -torch.inf).all()
    scored[:, alive].square().sum().backward()
    assert torch.isfinite(leaf.grad).all()


def test_standardise_of_a_constant_row_is_zero_with_a_tame_gradient() -> None:
    logits = torch.full((1, 5), 2.0, requires_grad=True)
    scored = standardise_logits(logits)
    (scored * torch.arange(5.0)).sum().backward()
    assert scored.tolist() == [[0.0] * 5]
    assert logits.grad.abs().max() <= 2.0


def test_standardise_refuses_two_outputs() -> None:
    with pytest.raises(TrainingError, match="rows of 2 logits"):
        standardise_logits(torch.zeros(3, 2))


@pytest.mark.parametrize("function", [forward_kl, reverse_kl, jsd, logit_mse, cosine_distance, mse_distance])
def test_dtype_is_kept(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = batch()
    assert function(student, teacher).dtype is torch.float64
    assert function(student.float(), teacher.float()).dtype is torch.float32
