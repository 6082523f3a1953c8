"""Kept or drawn: every weight is right in the mean, rows sum to 1, and noise is less than that of plain samples."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attar.objectives.response import forward_kl
from attar.objectives.sparse import Sampled, sample_targets, sampled_kl
from attar.objectives.threshold_sampling import threshold_targets, threshold_targets_at

quick = settings(max_examples=40, derandomize=True)
logits_ = arrays.arrays(np.float64, (3, 9), elements=st.one_of(st.floats(-12, 12), st.integers(-2, 2).map(float)))


def chances(p: np.ndarray, size: int) -> np.ndarray:
    """Chance of each to be there, min(1, p / t) with the t that makes `size` of them, by bisection; an oracle."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1.0, p / middle).sum() > size else (low, middle)
    return np.minimum(1.0, p / high)


def values(student: Tensor, sampled: Sampled) -> Tensor:
    return sampled_kl(student, sampled.log_probs, token_ids=sampled.token_ids, weights=sampled.weights)


def gradient(function, student: Tensor) -> Tensor:
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


@quick
@given(logits=logits_, most=st.integers(1, 12), threshold=st.sampled_from([0.0, 0.001, 0.03, 0.2, 0.9]))
def test_over_every_draw_each_token_has_its_chance_and_weight(logits, most: int, threshold: float) -> None:
    """A comb of numbers in [0, 1) stands for all of them."""
    comb, teacher = 2000, torch.from_numpy(logits)
    uniforms = ((torch.arange(comb) + 0.5) / comb).double()
    p = teacher.softmax(-1).numpy()
    for row in range(3):
        got = threshold_targets_at(teacher[row].expand(comb, -1), uniforms, threshold, most=most)
        there = got.token_ids != -1
        torch.testing.assert_close(got.weights.sum(-1), torch.ones(comb, dtype=torch.float64))
        assert (
            got.token_ids.sort(-1).values.diff(dim=-1)[there.sort(-1).values[:, 1:] & there.sort(-1).values[:, :-1]] > 0
        ).all()
        size = min(most, 9)
        if threshold > 0.0:
            size = min(size, max(1, int(np.ceil(np.minimum(1.0, p[row] / threshold).sum() - 1e-9))))
        assert (there.sum(-1) == size).all()
        held = np.zeros((2, 9))
        for place, part in enumerate((there.double(), got.weights)):
            np.add.at(held[place], got.token_ids[there].numpy(), part[there].numpy() / comb)
        np.testing.assert_allclose(held[0], chances(p[row], size), atol=2 / comb)
        weight = float(got.weights.max())
        np.testing.assert_allclose(held[1], p[row], atol=2 * weight / comb)
        sure = got.weights[there] - got.log_probs[there].exp()
        assert (sure >= -1e-12).all(), "no weight is below the probability"


def test_value_and_gradient_are_those_of_forward_kl_over_every_draw() -> None:
    generator = torch.Generator().manual_seed(7)
    student, teacher = 2.0 * torch.randn(2, 1, 11, dtype=torch.float64, generator=generator)
    comb = 20_000
    uniforms = ((torch.arange(comb) + 0.5) / comb).double()
    for most in (1, 2, 5, 11):
        got = threshold_targets_at(teacher.expand(comb, -1), uniforms, 0.0, most=most)

        def mean(z: Tensor, got=got) -> Tensor:
            return values(z.expand(comb, -1), got).mean()

        torch.testing.assert_close(mean(student), forward_kl(student, teacher)[0], rtol=1e-3, atol=1e-4)
        whole = gradient(lambda z: forward_kl(z, teacher), student)
        torch.testing.assert_close(gradient(mean, student), whole, rtol=1e-3, atol=1e-4)


def test_nothing_to_learn_where_both_agree_but_for_the_noise_of_the_gradient() -> None:
    """Weights sum to 1, so the value is exactly 0; the gradient is 0 in the mean, and exactly where all are kept."""
    teacher = 3.0 * torch.randn(40, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    few = threshold_targets(teacher, 0.02, most=30, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(values(teacher, few), torch.zeros(40, dtype=torch.float64))
    every = threshold_targets(teacher, 0.0, most=60)
    assert gradient(lambda z: values(z, every), teacher).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sure_rows_impossible_tokens_and_ties(dtype: torch.dtype) -> None:
    inf = torch.inf
    teacher = torch.tensor([[0.0, -inf, -inf, -inf], [1.0, 1.0, -inf, -inf], [2.0, 2.0, 2.0, 2.0], [40.0, 0, 0, 0]])
    for most in (1, 2, 3, 4, 9):
        for u in (0.0, 0.3, 1.0 - 2**-53):
            uniforms = torch.full((4,), u, dtype=torch.float64)
            got = threshold_targets_at(teacher.to(dtype), uniforms, 0.0, most=most)
            assert got.log_probs.dtype is got.weights.dtype is dtype
            there = got.token_ids != -1
            assert there.sum(-1).tolist() == [1, min(most, 2), min(most, 4), min(most, 4)]
            torch.testing.assert_close(got.weights.sum(-1), torch.ones(4, dtype=dtype))
            assert torch.isfinite(teacher.gather(-1, got.token_ids.clamp(min=0))[there]).all()
            assert (got.log_probs[~there] == -inf).all()


def test_less_noise_than_plain_samples_of_the_same_number() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, noise = torch.randn(2, 400, 500, dtype=torch.float64, generator=generator)
    teacher, student = 3.0 * teacher, 3.0 * teacher + noise
    exact = forward_kl(student, teacher)
    plain = sample_targets(teacher, 24, generator=generator)
    kept = threshold_targets(teacher, 0.0, most=24, generator=generator)
    away = [float((values(student, one) - exact).square().mean().sqrt()) for one in (plain, kept)]
    assert away[1] < 0.5 * away[0]


def test_one_threshold_is_less_noise_than_one_number_of_tokens() -> None:
    """Rows of very different certainty: for fewer tokens in all, the mean over rows is nearer."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.5, 8.0, 600, dtype=torch.float64)[:, None]
    teacher, noise = torch.randn(2, 600, 500, dtype=torch.float64, generator=generator)
    teacher = scale * teacher
    student, even = teacher + noise, threshold_targets(teacher, 0.0, most=24, generator=generator)
    fitted = threshold_targets(teacher, 0.016, most=500, generator=generator)
    assert (fitted.token_ids != -1).sum() <= (even.token_ids != -1).sum()
    exact = forward_kl(student, teacher)
    away = [float((values(student, one) - exact).square().mean()) for one in (even, fitted)]
    assert away[1] < 0.8 * away[0]


def test_a_rows_draw_depends_on_its_own_number() -> None:
    teacher = torch.randn(5, 30, generator=torch.Generator().manual_seed(4))
    uniforms = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    whole = threshold_targets_at(teacher, uniforms, 0.05, most=20)
    for row in range(5):
        alone = threshold_targets_at(teacher[row : row + 1], uniforms[row : row + 1], 0.05, most=20)
        width = alone.token_ids.shape[-1]
        assert torch.equal(alone.token_ids[0], whole.token_ids[row, :width])
        assert (whole.token_ids[row, width:] == -1).all()
    assert threshold_targets_at(teacher[:0], uniforms[:0], 0.05, most=20).token_ids.shape == (0, 0)


@pytest.mark.parametrize(
    ("threshold", "most", "name"), [(1.0, 4, "threshold"), (-0.1, 4, "threshold"), (0.1, 0, "most")]
)
def test_options_out_of_range(threshold: float, most: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"threshold_targets: {name} is"):
        threshold_targets(torch.zeros(1, 3), threshold, most=most)
