"""Random numbers that belong to a row: those of SplitMix64, and the draws that are made with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from attar.objectives.chance import row_keys, uniforms
from attar.objectives.from_dense import drawn_kl, top_k_kl, top_k_reverse_kl
from attar.objectives.response import forward_kl, reverse_kl
from attar.objectives.sparse import sampled_kl, targets_at
from objectives.draws import batch, gradient

MASK = 2**64 - 1


def splitmix(state: int) -> int:
    """One output of SplitMix64 (Steele et al. 2014), in Python's own integers."""
    z = state & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63), 123456789012345678])
def test_uniforms_are_splitmix_of_the_key(key: int) -> None:
    expected = [(splitmix(key + at * 0x9E3779B97F4A7C15) >> 11) / 2**53 for at in range(1, 6)]
    assert uniforms(torch.tensor([key]), 5)[0].tolist() == expected


def test_uniforms_are_even_and_rows_do_not_resemble_each_other() -> None:
    keys = row_keys(torch.arange(2000), seed=0, name="sampled_kl", progress=0.25)
    drawn = uniforms(keys, 50)
    assert len(keys.unique()) == 2000
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 0.01
    for first, second in ((drawn[:-1], drawn[1:]), (drawn[:, :-1], drawn[:, 1:])):
        assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 0.01


def test_keys_tell_uses_apart_and_depend_on_nothing_else() -> None:
    rows = torch.arange(5)
    given = {"seed": 0, "name": "sampled_kl", "progress": 0.25}
    keys = row_keys(rows, **given)
    assert torch.equal(row_keys(rows[[4, 1]], **given), keys[[4, 1]])
    for other in ({"seed": 1}, {"name": "sampled_kl_2"}, {"progress": 0.26}):
        assert not torch.isin(row_keys(rows, **given | other), keys).any()


def test_a_draw_is_the_inverse_of_the_cumulative_probabilities() -> None:
    teacher = torch.tensor([[0.1, 0.0, 0.6, 0.3]], dtype=torch.float64).log()
    numbers = torch.tensor([[0.0, 0.0999, 0.1001, 0.6999, 0.7001, 1 - 2**-53]], dtype=torch.float64)
    drawn = targets_at(teacher, numbers)
    assert drawn.token_ids.tolist() == [[0, 0, 2, 2, 3, 3]]
    torch.testing.assert_close(drawn.weights, torch.full((1, 6), 1 / 6, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_teacher_excludes_is_never_drawn(dtype: torch.dtype) -> None:
    teacher = torch.full((1, 5), -torch.inf, dtype=dtype)
    teacher[0, 1] = 0.0
    drawn = targets_at(teacher, torch.tensor([[0.0, 0.5, 1 - 2**-53]], dtype=torch.float64))
    assert drawn.token_ids.tolist() == [[1, 1, 1]]
    student = torch.randn(1, 5, dtype=dtype)
    value = sampled_kl(student, drawn.log_probs, token_ids=drawn.token_ids, weights=drawn.weights)
    torch.testing.assert_close(value, forward_kl(student, teacher))


@pytest.mark.parametrize("heat", [1.0, 1.5])
def test_the_mean_over_steps_is_forward_kl_in_value_and_gradient(heat: float) -> None:
    student, teacher = batch(rows=3, width=6, scale=1.5)
    leaf = student.repeat(4000, 1).requires_grad_()
    keys = torch.cat([row_keys(torch.arange(3), seed=0, name="k", progress=at / 4000) for at in range(4000)])
    values = drawn_kl(leaf, teacher.repeat(4000, 1), keys=keys, samples=8, proposal_temperature=heat)
    slopes = gradient(values, leaf).unflatten(0, (4000, 3)).mean(0)
    whole = student.clone().requires_grad_()
    exact = forward_kl(whole, teacher)
    torch.testing.assert_close(values.unflatten(0, (4000, 3)).mean(0), exact, rtol=0.03, atol=0.01)
    torch.testing.assert_close(slopes, gradient(exact, whole), rtol=0.05, atol=0.01)


def test_lists_of_all_tokens_are_the_dense_objectives() -> None:
    student, teacher = batch()
    torch.testing.assert_close(top_k_kl(student, teacher, k=100), forward_kl(student, teacher))
    torch.testing.assert_close(top_k_reverse_kl(student, teacher, k=100), reverse_kl(student, teacher))
    assert (top_k_kl(student, teacher, k=3) < forward_kl(student, teacher)).all()
    assert (top_k_reverse_kl(student, teacher, k=3) < reverse_kl(student, teacher)).all()
