"""Distances of hidden states against the float64 oracle, torch and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import paired_cosine_distances
from torch.nn import functional

from attar.objectives.feature import cosine_distance, mse_distance
from objectives.draws import batch
from objectives.oracles import feature


@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0])
def test_value_is_the_oracles(scale: float) -> None:
    student, teacher = batch(scale=scale)
    for ours, theirs in ((cosine_distance, feature.cosine_distance), (mse_distance, feature.mse_distance)):
        expected = theirs(student.numpy(), teacher.numpy())
        np.testing.assert_allclose(ours(student, teacher).numpy(), expected, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(ours(student.float(), teacher.float()).numpy(), expected, rtol=1e-3, atol=1e-6)
        assert ours(student.float(), teacher.float()).dtype is torch.float32


def test_cosine_agrees_with_peers_and_keeps_its_digits_near_zero() -> None:
    student, teacher = batch()
    torch.testing.assert_close(
        cosine_distance(student, teacher), 1 - functional.cosine_similarity(student, teacher, dim=-1)
    )
    np.testing.assert_allclose(cosine_distance(student, teacher), paired_cosine_distances(student, teacher))
    near = (teacher + 1e-4 * student).float()
    exact = feature.cosine_distance(near.double().numpy(), teacher.float().double().numpy())
    np.testing.assert_allclose(cosine_distance(near, teacher.float()), exact, rtol=0.01)


def test_zero_vector_has_a_finite_distance_and_gradient() -> None:
    zero = torch.zeros(1, 4, requires_grad=True)
    distance = cosine_distance(zero, torch.ones(1, 4))
    distance.sum().backward()
    assert distance.tolist() == [0.5]
    assert torch.isfinite(zero.grad).all()
    assert cosine_distance(zero, torch.zeros(1, 4)).tolist() == [0.0]
