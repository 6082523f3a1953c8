"""What holds for one objective on logits, or ties it to a sibling; hypothesis looks for rows that break it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attar.objectives.response import (
    alpha_beta,
    contrastive_skew,
    dkd,
    forward_kl,
    jsd,
    ofa,
    reverse_kl,
    sampled_token,
    skew_kl,
    skew_reverse_kl,
    taid,
    todi,
    total_variation,
)
from objectives.draws import batch, gradient, pairs, quick
from objectives.laws import Entry
from objectives.laws.response import RESPONSE

MASKABLE = [entry for entry in RESPONSE if "infinite" not in entry.broken and "standardise_logits" not in entry.name]


@pytest.mark.parametrize("entry", MASKABLE, ids=lambda entry: entry.name.replace(" ", "_"))
@quick
@given(both=pairs(5), dead=st.sets(st.integers(0, 4), max_size=4))
def test_dead_outputs_leave_value_and_gradient_finite(
    entry: Entry, both: tuple[Tensor, Tensor], dead: set[int]
) -> None:
    student, teacher = both[0].clone(), both[1].clone()
    student[:, list(dead)] = teacher[:, list(dead)] = -torch.inf
    alive = [column for column in range(5) if column not in dead]
    leaf = student.requires_grad_()
    value = entry.function(leaf, teacher)
    torch.testing.assert_close(value, entry.function(both[0][:, alive], both[1][:, alive]), rtol=1e-9, atol=1e-12)
    assert torch.isfinite(gradient(value, leaf)).all()


@quick
@given(both=pairs(4), beta=st.floats(0.01, 0.99))
def test_jsd_is_bounded_and_mirrors(both: tuple[Tensor, Tensor], beta: float) -> None:
    student, teacher = both
    value = jsd(student, teacher, beta=beta)
    entropy = -beta * np.log(beta) - (1 - beta) * np.log(1 - beta)
    assert (value <= entropy + 1e-12).all()
    torch.testing.assert_close(value, jsd(teacher, student, beta=1 - beta), rtol=1e-9, atol=1e-12)


def test_jsd_tends_to_its_ends_as_documented() -> None:
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    near = 1e-6
    torch.testing.assert_close(jsd(student, teacher, beta=near) / near, forward_kl(student, teacher), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        jsd(student, teacher, beta=1 - near) / near, reverse_kl(student, teacher), rtol=1e-4, atol=0
    )
    assert torch.equal(jsd(student, teacher, beta=0.0), forward_kl(student, teacher))
    assert torch.equal(jsd(student, teacher, beta=1.0), reverse_kl(student, teacher))
    with pytest.raises(ValueError, match=r"beta is 1\.5"):
        jsd(student, teacher, beta=1.5)


@quick
@given(both=pairs(4), alpha=st.floats(0.01, 0.99))
def test_skewed_divergences_are_bounded_and_mirror(both: tuple[Tensor, Tensor], alpha: float) -> None:
    student, teacher = both
    value = skew_kl(student, teacher, alpha=alpha)
    assert (value <= -np.log(alpha) + 1e-12).all()
    torch.testing.assert_close(value, skew_reverse_kl(teacher, student, alpha=alpha), rtol=1e-9, atol=1e-12)
    whole = alpha * value + (1 - alpha) * skew_reverse_kl(student, teacher, alpha=1 - alpha)
    torch.testing.assert_close(whole, jsd(student, teacher, beta=alpha), rtol=1e-9, atol=1e-12)


def test_skewed_divergences_end_in_the_plain_ones() -> None:
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    assert torch.equal(skew_kl(student, teacher, alpha=0.0), forward_kl(student, teacher))
    assert torch.equal(skew_reverse_kl(student, teacher, alpha=0.0), reverse_kl(student, teacher))
    with pytest.raises(ValueError, match=r"skew_kl: alpha is 1\.0"):
        skew_kl(student, teacher, alpha=1.0)


@quick
@given(both=pairs(5))
def test_todi_has_the_value_of_both_directions(both: tuple[Tensor, Tensor]) -> None:
    student, teacher = both
    whole = forward_kl(student, teacher) + reverse_kl(student, teacher)
    torch.testing.assert_close(todi(student, teacher), whole, rtol=1e-9, atol=1e-12)


def test_alpha_beta_has_its_corners_and_limits() -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(alpha_beta(student, teacher, alpha=1.0, beta=0.0), forward_kl(student, teacher))
    torch.testing.assert_close(alpha_beta(student, teacher, alpha=0.0, beta=1.0), reverse_kl(student, teacher))
    p, q = teacher.softmax(-1), student.softmax(-1)
    hellinger = 2 * (p.sqrt() - q.sqrt()).square().sum(-1)
    torch.testing.assert_close(alpha_beta(student, teacher), hellinger)
    for alpha, beta in ((0.6, 0.0), (0.0, 0.6)):
        near = alpha_beta(student, teacher, alpha=alpha or 1e-6, beta=beta or 1e-6)
        torch.testing.assert_close(alpha_beta(student, teacher, alpha=alpha, beta=beta), near, rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="not both 0"):
        alpha_beta(student, teacher, alpha=0.0, beta=0.0)


@quick
@given(both=pairs(5))
def test_total_variation_is_bounded_by_pinsker(both: tuple[Tensor, Tensor]) -> None:
    value = total_variation(*both)
    assert (value <= 1 + 1e-12).all()
    assert (value <= (0.5 * forward_kl(*both)).sqrt() + 1e-9).all()


@quick
@given(both=pairs(5), progress=st.floats(0, 1))
def test_taid_pulls_towards_its_target_alone(both: tuple[Tensor, Tensor], progress: float) -> None:
    student, teacher = both[0].requires_grad_(), both[1]
    target = ((1 - progress) * student.detach() + progress * teacher).softmax(-1)
    value = taid(student, teacher, progress=progress)
    torch.testing.assert_close(gradient(value, student), student.softmax(-1).detach() - target, rtol=1e-9, atol=1e-12)


def test_taid_leads_from_nothing_to_forward_kl() -> None:
    student, teacher = batch()
    leaf = student.requires_grad_()
    start = taid(leaf, teacher, progress=0.0)
    assert (start == 0).all()
    assert gradient(start, leaf).abs().max() < 1e-15
    assert torch.equal(taid(leaf, teacher, progress=1.0), forward_kl(leaf, teacher))
    values = torch.stack([taid(leaf, teacher, progress=torch.tensor(t)) for t in (0.2, 0.4, 0.6, 0.8)])
    assert (values.diff(dim=0) > 0).all()


@quick
@given(both=pairs(5), alpha=st.floats(0, 5), beta=st.floats(0, 5), label=st.integers(0, 4))
def test_dkd_splits_forward_kl(both: tuple[Tensor, Tensor], alpha: float, beta: float, label: int) -> None:
    student, teacher = both
    labels = torch.full((len(student),), label)
    sure, rest = (dkd(student, teacher, labels=labels, alpha=a, beta=1 - a) for a in (1.0, 0.0))
    others = 1 - teacher.softmax(-1)[:, label]
    torch.testing.assert_close(sure + others * rest, forward_kl(student, teacher), rtol=1e-9, atol=1e-12)
    whole = dkd(student, teacher, labels=labels, alpha=alpha, beta=beta)
    torch.testing.assert_close(whole, alpha * sure + beta * rest, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("margin", [0.0, 20.0, 90.0, 1e4])
@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_dkd_of_a_saturated_label_keeps_its_gradient(margin: float, side: str) -> None:
    """1 - p is 0 in float32 from a margin of 17 on; its logarithm is not."""
    student, teacher = (logits.float() for logits in batch(scale=1.0))
    labels = torch.tensor([0, 10, 3, 3, 7])
    sure = margin * torch.nn.functional.one_hot(labels, 11)
    student, teacher = student + sure * (side != "teacher"), teacher + sure * (side != "student")
    leaf, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    value, expected = dkd(leaf, teacher, labels=labels), dkd(exact, teacher.double(), labels=labels)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient(value, leaf).double(), gradient(expected, exact), rtol=1e-4, atol=1e-5)


def test_dkd_where_only_the_label_is_left() -> None:
    """Two classes have one other each: nothing to compare. Nor is there where every other class is masked."""
    student, teacher = batch(width=2)
    labels = torch.tensor([0, 1, 0, 1, 1])
    assert (dkd(student, teacher, labels=labels, alpha=0.0) == 0).all()
    torch.testing.assert_close(dkd(student, teacher, labels=labels, beta=0.0), forward_kl(student, teacher))
    alone = torch.tensor([[1.0, -torch.inf]], requires_grad=True)
    value = dkd(alone, torch.tensor([[2.0, -torch.inf]]), labels=torch.tensor([0]))
    assert value.tolist() == [0.0]
    assert gradient(value, alone).tolist() == [[0.0, 0.0]]
    one_sided = dkd(torch.zeros(1, 2), torch.tensor([[0.0, -torch.inf]]), labels=torch.tensor([0]))
    torch.testing.assert_close(one_sided, torch.tensor([2.0]).log())


@quick
@given(both=pairs(5), gamma=st.floats(0.3, 3), label=st.integers(0, 4))
def test_ofa_is_least_at_its_weights(both: tuple[Tensor, Tensor], gamma: float, label: int) -> None:
    student, teacher = both
    labels = torch.full((len(student),), label)
    hot = torch.nn.functional.one_hot(labels, 5)
    weight = (teacher.softmax(-1) + hot).pow(gamma) - hot
    best = (weight / weight.sum(-1, keepdim=True)).clamp(min=1e-300).log().requires_grad_()
    least = ofa(best, teacher, labels=labels, gamma=gamma)
    assert gradient(least, best).abs().max() < 1e-9
    assert (ofa(student, teacher, labels=labels, gamma=gamma) >= least - 1e-9).all()


@quick
@given(both=pairs(5), label=st.integers(0, 4))
def test_ofa_of_power_1_is_forward_kl_and_an_entropy(both: tuple[Tensor, Tensor], label: int) -> None:
    student, teacher = both[0].requires_grad_(), both[1]
    value = ofa(student, teacher, labels=torch.full((len(student),), label))
    plain = forward_kl(student, teacher)
    torch.testing.assert_close(value, plain + torch.special.entr(teacher.softmax(-1)).sum(-1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient(value, student), gradient(plain, student), rtol=1e-9, atol=1e-12)


def test_ofa_of_a_larger_power_leans_on_the_label() -> None:
    teacher = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    student, labels = torch.zeros_like(teacher).requires_grad_(), torch.tensor([0])
    pulls = [-gradient(ofa(student, teacher, labels=labels, gamma=g), student)[0, 0].item() for g in (1.0, 1.5, 2.0)]
    assert pulls == sorted(pulls)
    assert pulls[0] > 0


@quick
@given(both=pairs(5))
def test_sampled_token_has_the_expected_gradient_of_reverse_kl(both: tuple[Tensor, Tensor]) -> None:
    """Every token once, weighed by the probability that the student draws it."""
    student, teacher = both[0].requires_grad_(), both[1]
    tokens = torch.arange(5).expand(len(student), 5).flatten()
    rows = student.repeat_interleave(5, 0), teacher.repeat_interleave(5, 0)
    chance = rows[0].detach().softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    expected = gradient(reverse_kl(student, teacher), student)
    found = gradient(chance * sampled_token(*rows, token_ids=tokens), student)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_sampled_token_of_the_opposite_sign_ascends() -> None:
    student, teacher = batch(rows=1, width=4, scale=1.0)
    student.requires_grad_()
    tokens = torch.arange(4)
    chance = student.detach().softmax(-1)[0]
    up = gradient(-chance * sampled_token(student.expand(4, 4), teacher.expand(4, 4), token_ids=tokens), student)
    before, after = reverse_kl(student, teacher), reverse_kl(student - 0.01 * up, teacher)
    assert after > before
    assert reverse_kl(student + 0.01 * up, teacher) < before
    values = sampled_token(student.expand(4, 4), teacher.expand(4, 4), token_ids=tokens)
    assert values.min() < 0 < values.max()


@quick
@given(both=pairs(4), alpha=st.floats(0.01, 0.99), own=st.booleans())
def test_contrastive_skew_takes_the_side_whose_text_it_is(both: tuple[Tensor, Tensor], alpha: float, own: bool) -> None:
    student, teacher = both[0].requires_grad_(), both[1]
    on_policy = torch.full((len(student),), own)
    value = contrastive_skew(student, teacher, on_policy=on_policy, alpha=alpha)
    sibling = skew_reverse_kl if own else skew_kl
    torch.testing.assert_close(value, sibling(student, teacher, alpha=alpha), rtol=1e-9, atol=1e-12)
    assert (value <= -np.log(alpha) + 1e-12).all()
    if own:
        smoothed = ((1 - alpha) * teacher.softmax(-1) + alpha * student.detach().softmax(-1)).log()
        expected = gradient(reverse_kl(student, smoothed), student)
    else:
        expected = gradient(skew_kl(student, teacher, alpha=alpha), student)
    torch.testing.assert_close(gradient(value, student), expected, rtol=1e-6, atol=1e-9)


def test_contrastive_skew_differs_from_the_moving_mixture_in_the_gradient() -> None:
    """The choice that the docstring names: q is constant in the mixture of the student's text."""
    student, teacher = batch(scale=2.0)
    student.requires_grad_()
    held = gradient(contrastive_skew(student, teacher, on_policy=torch.ones(5).bool(), alpha=0.1), student)
    moving = gradient(skew_reverse_kl(student, teacher, alpha=0.1), student)
    assert ((held - moving).norm(dim=-1) > 0.05 * moving.norm(dim=-1)).all()
    assert (held.norm(dim=-1) > moving.norm(dim=-1)).all()
