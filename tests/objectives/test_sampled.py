"""Sampled targets: unbiased over every draw, and what looks alike but is not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from attar.objectives.response import forward_kl
from attar.objectives.sparse import sample_targets, sampled_kl
from objectives.oracles import sparse as oracle


def batch(rows: int = 5, width: int = 11, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    student, teacher = scale * torch.randn(2, rows, width, dtype=torch.float64, generator=generator)
    return student, teacher


def gradient(function, student: Tensor) -> Tensor:
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def draws(teacher: Tensor, samples: int, heat: float) -> tuple[Tensor, Tensor, Tensor]:
    """Every possible draw as one row, with its probability and weights, for a teacher of one row."""
    every = torch.tensor(list(itertools.product(range(teacher.shape[-1]), repeat=samples)))
    p, r = teacher.softmax(-1)[0], (teacher / heat).softmax(-1)[0]
    return every, r[every].prod(-1), p[every] / (samples * r[every])


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("heat", [1.0, 1.7])
def test_sampled_kl_is_unbiased_over_every_draw(samples: int, heat: float) -> None:
    student, teacher = batch(rows=1, width=4, scale=1.0)
    every, chance, weights = draws(teacher, samples, heat)
    log_p = teacher.log_softmax(-1)[0][every]

    def expected(z: Tensor) -> Tensor:
        values = sampled_kl(z.expand(len(every), -1), log_p, token_ids=every, weights=weights)
        return (chance * values).sum()

    torch.testing.assert_close(expected(student), forward_kl(student, teacher)[0])
    whole = gradient(lambda z: forward_kl(z, teacher), student)
    torch.testing.assert_close(gradient(expected, student), whole)


def test_trap_weights_divided_by_their_sum_are_biased() -> None:
    student, teacher = batch(rows=1, width=4, scale=1.0)
    whole = gradient(lambda z: forward_kl(z, teacher), student)
    for heat, biased in ((1.0, False), (1.7, True)):
        every, chance, weights = draws(teacher, 2, heat)
        weights = weights / weights.sum(-1, keepdim=True)
        log_p = teacher.log_softmax(-1)[0][every]

        def expected(z: Tensor, every=every, chance=chance, weights=weights, log_p=log_p) -> Tensor:
            return (chance * sampled_kl(z.expand(len(every), -1), log_p, token_ids=every, weights=weights)).sum()

        away = (gradient(expected, student) - whole).norm() / whole.norm()
        assert (away > 0.05) == biased
        assert (away < 1e-12) != biased


def test_trap_the_kl_of_drawn_frequencies_is_biased_upwards() -> None:
    student, teacher = batch(rows=1, width=4, scale=0.3)
    every, chance, _ = draws(teacher, 6, 1.0)
    frequencies = torch.nn.functional.one_hot(every, 4).double().mean(1)
    values = torch.special.xlogy(frequencies, frequencies).sum(-1) - (frequencies * student.log_softmax(-1)).sum(-1)
    bias = (chance * values).sum() - forward_kl(student, teacher)[0]
    torch.testing.assert_close(bias, torch.tensor(3 / 12, dtype=torch.float64), rtol=0.25, atol=0)


def test_sampled_kl_closes_in_with_the_samples() -> None:
    student, teacher = batch(rows=40, width=30, scale=1.5)
    whole = gradient(lambda z: forward_kl(z, teacher), student)
    generator = torch.Generator().manual_seed(5)
    away = []
    for samples in (100, 10_000):
        drawn = sample_targets(teacher, samples, proposal_temperature=1.25, generator=generator)
        got = gradient(
            lambda z, drawn=drawn: sampled_kl(z, drawn.log_probs, token_ids=drawn.token_ids, weights=drawn.weights),
            student,
        )
        away.append(float((got - whole).norm() / whole.norm()))
    assert away[1] < 0.02
    assert 6 < away[0] / away[1] < 16  # 10 times, as 1 / sqrt(S)


def test_sampled_kl_is_the_oracles() -> None:
    student, teacher = batch()
    drawn = sample_targets(teacher, 7, proposal_temperature=2.0, generator=torch.Generator().manual_seed(1))
    value = sampled_kl(student, drawn.log_probs, token_ids=drawn.token_ids, weights=drawn.weights)
    proposal = (teacher / 2).softmax(-1).numpy()
    expected = oracle.sampled_kl(student.numpy(), teacher.numpy(), drawn.token_ids.numpy(), proposal)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    ids = torch.cat([drawn.token_ids, torch.full((5, 1), -1)], -1)
    padded = [torch.cat([part, torch.full((5, 1), torch.nan)], -1) for part in (drawn.log_probs, drawn.weights)]
    torch.testing.assert_close(sampled_kl(student, padded[0], token_ids=ids, weights=padded[1]), value)
    entropy = sampled_kl(student, torch.zeros_like(drawn.log_probs), token_ids=drawn.token_ids, weights=drawn.weights)
    torch.testing.assert_close(entropy - value, -(drawn.weights * drawn.log_probs).sum(-1))


def test_samples_come_from_the_proposal() -> None:
    teacher = torch.tensor([[2.0, 0.0, 1.0, -torch.inf]])
    generator = torch.Generator().manual_seed(3)
    drawn = sample_targets(teacher, 20_000, proposal_temperature=2.0, generator=generator)
    seen = (
        drawn.token_ids.bincount(minlength=4)
        if drawn.token_ids.dim() == 1
        else drawn.token_ids[0].bincount(minlength=4)
    )
    torch.testing.assert_close(seen / 20_000, (teacher[0] / 2).softmax(-1), rtol=0.03, atol=0)
    torch.testing.assert_close(drawn.weights.sum(-1), torch.ones(1), rtol=0.02, atol=0)
    assert (sample_targets(teacher, 8).weights == 1 / 8).all()
    none = sampled_kl(teacher[:0], drawn.log_probs[:0], token_ids=drawn.token_ids[:0], weights=drawn.weights[:0])
    assert none.shape == (0,)
    with pytest.raises(ValueError, match="proposal_temperature is 0"):
        sample_targets(teacher, 8, proposal_temperature=0.0)
