"""Sparse objectives on lists: bounds, edges, precision, peers' agreement and their traps."""

from __future__ import annotations

import itertools

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import Share, Term
from attar.objectives.response import forward_kl, reverse_kl
from attar.objectives.sparse import (
    Listed,
    at_tokens,
    joined_support,
    sparse_kl,
    sparse_reverse_kl,
    top_k,
    top_mass,
)
from objectives.oracles import sparse as oracle
from objectives.peers import piece

quick = settings(max_examples=25, derandomize=True)
span = st.floats(-30, 30)
rows = st.tuples(*[arrays.arrays(np.float64, (2, 6), elements=span)] * 2).map(
    lambda sides: (torch.from_numpy(sides[0]), torch.from_numpy(sides[1]))
)


def batch(rows: int = 5, width: int = 11, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    student, teacher = scale * torch.randn(2, rows, width, dtype=torch.float64, generator=generator)
    return student, teacher


def forward(student: Tensor, listed: Listed, *, tail: bool = True) -> Tensor:
    return sparse_kl(student, listed.log_probs, token_ids=listed.token_ids, tail=listed.tail if tail else None)


def backward(student: Tensor, listed: Listed) -> Tensor:
    return sparse_reverse_kl(student, listed.log_probs, token_ids=listed.token_ids, tail=listed.tail)


def gradient(function, student: Tensor) -> Tensor:
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0])
@pytest.mark.parametrize("k", [1, 4, 10, 11])
def test_values_are_the_oracles(scale: float, k: int) -> None:
    student, teacher = batch(scale=scale)
    listed = top_k(teacher, k)
    ids = listed.token_ids.numpy()
    expected = oracle.sparse_kl(student.numpy(), teacher.numpy(), ids)
    for tail in (True, False):
        np.testing.assert_allclose(forward(student, listed, tail=tail), expected, rtol=1e-9, atol=1e-13)
        single = forward(student.float(), top_k(teacher.float(), k), tail=tail)
        np.testing.assert_allclose(single, expected, rtol=1e-3, atol=2e-6)
    joined = at_tokens(teacher, joined_support(student, listed.token_ids, 3))
    expected = oracle.sparse_kl(student.numpy(), teacher.numpy(), joined.token_ids.numpy(), reverse=True)
    np.testing.assert_allclose(backward(student, joined), expected, rtol=1e-9, atol=1e-13)


@quick
@given(both=rows, order=st.permutations(range(6)))
def test_a_longer_list_says_more_up_to_the_whole(both: tuple[Tensor, Tensor], order: list[int]) -> None:
    student, teacher = both
    for function, whole in ((forward, forward_kl(*both)), (backward, reverse_kl(*both))):
        values = [
            function(student, at_tokens(teacher, torch.tensor(order[:k]).expand(2, k))) for k in range(len(order) + 1)
        ]
        assert (values[0] == 0).all()
        for shorter, longer in itertools.pairwise(values):
            assert (longer >= shorter - 1e-9 * (1 + shorter)).all()
        for exact in values[-2:]:
            torch.testing.assert_close(exact, whole, rtol=1e-9, atol=1e-12)


def test_gradient_is_that_of_forward_kl_from_the_last_but_one_on() -> None:
    student, teacher = batch()
    whole = gradient(lambda z: forward_kl(z, teacher), student)
    for k in (10, 11):
        for tail in (True, False):
            listed = top_k(teacher, k)
            got = gradient(lambda z, listed=listed, tail=tail: forward(z, listed, tail=tail), student)
            torch.testing.assert_close(got, whole)


def test_gradient_within_the_tail_keeps_the_students_own_shape() -> None:
    student, teacher = batch()
    listed = top_k(teacher, 3)
    q, p = student.softmax(-1), teacher.softmax(-1)
    held = torch.zeros_like(p).scatter(-1, listed.token_ids, 1.0)
    rest_p, rest_q = (((1 - held) * side).sum(-1, keepdim=True) for side in (p, q))
    expected = q - held * p - (1 - held) * q * rest_p / rest_q
    torch.testing.assert_close(gradient(lambda z: forward(z, listed), student), expected)


def test_padding_is_not_listed() -> None:
    student, teacher = batch()
    listed = top_k(teacher, 3)
    nothing = torch.full((5, 2), -torch.inf, dtype=torch.float64)
    log_probs = torch.cat([listed.log_probs, nothing], -1)
    for padding in (-1, 0):  # with -inf any id is padding
        ids = torch.cat([listed.token_ids, torch.full((5, 2), padding)], -1)
        for tail in (listed.tail, None):
            value = sparse_kl(student, log_probs, token_ids=ids, tail=tail)
            torch.testing.assert_close(value, forward(student, listed))
    garbage = torch.cat([listed.log_probs, torch.zeros(5, 2)], -1)
    padded = Listed(garbage, torch.cat([listed.token_ids, torch.full((5, 2), -1)], -1), listed.tail)
    torch.testing.assert_close(forward(student, padded), forward(student, listed))
    torch.testing.assert_close(backward(student, padded), backward(student, listed))


def test_shapes_rows_and_dtypes() -> None:
    student, teacher = batch()
    listed = top_k(teacher, 4)
    assert listed.log_probs.shape == listed.token_ids.shape == (5, 4)
    assert (listed.log_probs.diff(dim=-1) <= 0).all()
    torch.testing.assert_close(listed.log_probs.exp().sum(-1) + listed.tail.exp(), torch.ones(5, dtype=torch.float64))
    some = torch.tensor([4, 0, 2])
    for function in (forward, backward):
        torch.testing.assert_close(
            function(student[some], Listed(*(part[some] for part in listed))), function(student, listed)[some]
        )
        assert function(student[:0], Listed(*(part[:0] for part in listed))).shape == (0,)
        assert function(student.float(), top_k(teacher.float(), 4)).dtype is torch.float32


@pytest.mark.parametrize("bound", [0.0, 0.02, 0.3, 0.99])
@pytest.mark.parametrize("most", [1, 6, 99])
def test_top_mass_lists_as_few_as_leave_no_more_than_the_bound(bound: float, most: int) -> None:
    student, teacher = batch(rows=30)
    listed = top_mass(teacher, bound, most=most)
    k = (listed.token_ids != -1).sum(-1)
    assert listed.token_ids.shape[-1] == k.max()
    for row in range(30):
        exact = top_k(teacher[row : row + 1], int(k[row]))
        assert listed.token_ids[row, : k[row]].tolist() == exact.token_ids[0].tolist()
        torch.testing.assert_close(listed.tail[row : row + 1], exact.tail)
        torch.testing.assert_close(forward(student, listed)[row], forward(student[row : row + 1], exact)[0])
        assert exact.tail.exp() <= bound + 1e-12 or k[row] == min(most, 11)
        if k[row] > 1:
            assert top_k(teacher[row : row + 1], int(k[row]) - 1).tail.exp() > bound - 1e-12
    with pytest.raises(ValueError, match="top_mass: tail is"):
        top_mass(teacher, 1.0, most=most)
    with pytest.raises(ValueError, match="top_mass: most is 0"):
        top_mass(teacher, bound, most=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_have_finite_values_and_gradients(dtype: torch.dtype) -> None:
    inf = torch.inf
    teacher = torch.tensor(
        [
            [5.0, 1.0, 0.0, -2.0],  # as it comes
            [0.0, 1.0, -inf, -inf],  # nothing outside of the list, and the student knows it
            [0.0, 1.0, -inf, -inf],  # nothing outside of the list, but the student puts something there
            [3.0, -inf, -inf, -inf],  # fewer tokens than the list is long
            [1.0, 60.0, 0.0, 0.0],  # a tail far below rounding
        ],
        dtype=dtype,
    )
    student = torch.tensor(
        [
            [5.0, 1.0, -200.0, -200.0],  # the student's tail underflows as a probability
            [1.0, 0.0, -inf, -inf],
            [1.0, 0.0, 1.0, -1.0],
            [0.0, 1.0, 2.0, 3.0],
            [1.0, 60.0, -inf, -inf],
        ],
        dtype=dtype,
    )
    listed = top_k(teacher, 2)
    for tail in (True, False):
        kept = student[:4] if tail else student  # with its tail the last row is truly infinite
        some = Listed(*(part[: len(kept)] for part in listed))
        leaf = kept.clone().requires_grad_()
        value = forward(leaf, some, tail=tail)
        value.sum().backward()
        assert torch.isfinite(value).all()
        assert torch.isfinite(leaf.grad).all()
        assert (leaf.grad[kept == -inf] == 0).all()
    torch.testing.assert_close(forward(student, listed)[1:4], forward_kl(student, teacher)[1:4])
    assert torch.isinf(forward(student, listed)[4])
    possible = at_tokens(student, listed.token_ids)
    leaf = teacher[[0, 1, 3]].clone().requires_grad_()
    value = backward(leaf, Listed(*(part[[0, 1, 3]] for part in possible)))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("depth", [5.0, 15.0, 25.0, 60.0])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_a_small_tail_keeps_its_digits_in_float32(depth: float, offset: float) -> None:
    """The student's tail falls to e^-60, far below what 1 - sum q can hold; the teacher's does not."""
    student, teacher = batch(rows=8, width=50, scale=1.0)
    listed = top_k(teacher.float(), 5)
    student.scatter_(-1, listed.token_ids, student.gather(-1, listed.token_ids) + depth)
    single = (student + offset).float()
    value, exact = (
        forward(single, listed),
        forward(single.double(), Listed(*(p.double() if p.is_floating_point() else p for p in listed))),
    )
    torch.testing.assert_close(value.double(), exact, rtol=2e-6, atol=0)
    got = gradient(lambda z: forward(z, listed), single).double()
    expected = gradient(lambda z: forward_kl(z, teacher), single.double())
    held = torch.zeros_like(teacher).scatter(-1, listed.token_ids, 1.0)
    torch.testing.assert_close((got * (1 - held)).sum(-1), (expected * (1 - held)).sum(-1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got * held, expected * held, rtol=1e-5, atol=2e-7)


def test_trap_a_tail_as_one_minus_the_sum_is_lost_below_1e_7() -> None:
    """TRL's tail is log(1 - sum), held above 1e-7 by a clamp: past it value and gradient have no part of the truth."""
    tail_of = piece("experimental/sdpo/loss_utils.py", "add_tail_bucket")
    teacher = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    listed = top_k(teacher, 1)
    for depth, lost in ((10.0, False), (25.0, True)):
        student = torch.tensor([[depth, 0.0, 0.0, 0.0]])

        def theirs(z: Tensor) -> Tensor:
            return -(tail_of(listed.log_probs).exp() * tail_of(z.log_softmax(-1)[:, :1])).sum(-1)

        exact = gradient(lambda z: forward_kl(z, teacher), student)[:, 0]
        torch.testing.assert_close(gradient(lambda z: forward(z, listed), student)[:, 0], exact)
        away = (gradient(theirs, student)[:, 0] - exact).abs() / exact.abs()
        assert (away > 0.5) == lost


def test_a_list_in_16_bits_needs_its_tail() -> None:
    """Where both agree there should be no pull on the tail. A tail of 3e-5 drowns in the rounding of the listed."""
    _, teacher = batch(rows=32, width=200, scale=1.0)
    teacher[:, :8] += 14.0
    listed = top_k(teacher, 8)
    rounded = listed._replace(log_probs=listed.log_probs.half().double(), tail=listed.tail.half().double())
    for tail, median in ((True, 0.002), (False, 1.0)):
        slope = gradient(lambda z, tail=tail: forward(z, rounded, tail=tail), teacher)
        pull = slope[:, 8:].sum(-1).abs() / listed.tail.exp()
        assert 0.5 * median < pull.median() < 1.5 * median


def test_agrees_with_trl() -> None:
    """TRL's self-distillation: the same cells (on the student's top-k), no T^2, its tail clamped at 1e-7."""
    tail_of = piece("experimental/sdpo/loss_utils.py", "add_tail_bucket")
    divergence = piece("experimental/sdpo/loss_utils.py", "compute_divergence")
    student, teacher = batch(scale=1.5)
    listed = top_k(teacher, 4)
    sides = tail_of(student.log_softmax(-1).gather(-1, listed.token_ids)), tail_of(listed.log_probs)
    torch.testing.assert_close(forward(student, listed), divergence(*sides, alpha=0.0))
    torch.testing.assert_close(backward(student, listed), divergence(*sides, alpha=1.0))


def test_trap_renormalising_the_teacher_alone_does_not_vanish() -> None:
    """The value where student and teacher agree is -log of the listed mass, and its gradient pushes the tail to 0."""
    generator = torch.Generator().manual_seed(0)
    teacher, noise = torch.randn(2, 64, 4000, dtype=torch.float64, generator=generator)
    teacher = 1.8 * teacher
    student = teacher + 0.8 * noise
    listed = top_k(teacher, 32)

    def renormalised(z: Tensor) -> Tensor:
        target = listed.log_probs.log_softmax(-1)
        return (target.exp() * (target - z.log_softmax(-1).gather(-1, listed.token_ids))).sum(-1)

    torch.testing.assert_close(renormalised(teacher), -listed.log_probs.logsumexp(-1))
    assert round(float(renormalised(teacher).mean()), 2) == 1.32
    assert round(float(renormalised(student).mean()), 2) == 1.62
    assert round(float(forward_kl(student, teacher).mean()), 2) == 0.31
    assert round(float(forward(student, listed).mean()), 2) == 0.08
    assert (forward(teacher, listed) == 0).all()
    pushed = gradient(renormalised, teacher).gather(-1, listed.token_ids).sum(-1)
    torch.testing.assert_close(pushed, -listed.tail.exp())
    torch.testing.assert_close(gradient(lambda z: forward(z, listed), teacher), torch.zeros_like(teacher))


def test_trap_without_a_tail_the_sum_goes_negative() -> None:
    _, teacher = batch()
    listed = top_k(teacher, 3)
    crowded = teacher.scatter_add(-1, listed.token_ids, torch.ones(5, 3, dtype=torch.float64))
    gap = listed.log_probs - crowded.log_softmax(-1).gather(-1, listed.token_ids)
    assert ((listed.log_probs.exp() * gap).sum(-1) < 0).all()
    assert (forward(crowded, listed) > 0).all()


def test_trap_reverse_on_the_teachers_top_k_rewards_leaving_it() -> None:
    """Where both agree, a step downhill raises what is not listed; with the tail's cell there is no step."""
    _, teacher = batch()
    listed = top_k(teacher, 3)

    def without_tail(z: Tensor) -> Tensor:
        log_q = z.log_softmax(-1).gather(-1, listed.token_ids)
        return (log_q.exp() * (log_q - listed.log_probs)).sum(-1)

    slope = gradient(without_tail, teacher)
    outside = torch.ones_like(teacher).scatter(-1, listed.token_ids, 0.0).bool()
    assert (slope[outside] < 0).all()
    assert (without_tail(teacher - 0.1 * slope) < 0).all()
    torch.testing.assert_close(gradient(lambda z: backward(z, listed), teacher), torch.zeros_like(teacher))


def test_joined_support_lets_reverse_kl_see_what_the_student_overrates() -> None:
    """A student that is sure of a token which the teacher has not listed: the tail's cell alone hides most of it."""
    teacher = torch.tensor([[4.0, 3.0, *[0.0] * 50, -8.0]], dtype=torch.float64)
    student = teacher.clone()
    student[0, -1] = 6.0
    alone = top_k(teacher, 2)
    joined = joined_support(student, alone.token_ids, 2)
    assert joined.tolist() == [[0, 1, 52, -1]]
    seen, whole = backward(student, at_tokens(teacher, joined)), reverse_kl(student, teacher)
    assert backward(student, alone) < 0.25 * whole
    torch.testing.assert_close(seen, whole)  # the other 50 differ by one factor, so one cell holds them


def test_a_list_at_one_temperature_cannot_be_tempered() -> None:
    """The list at T = 2 needs the sum of p^(1/2) over all V, of which a list at T = 1 holds only its own part."""
    _, teacher = batch(scale=2.0)
    cold, hot = top_k(teacher, 3), top_k(teacher / 2, 3)
    scaled = cold.log_probs / 2
    assert (scaled - hot.log_probs).abs().min() > 0.1
    assert (scaled.log_softmax(-1) - hot.log_probs).abs().min() > 0.1


@pytest.mark.parametrize("chunk_rows", [1, 2, None])
def test_the_reduction_cuts_the_list_with_the_rows(chunk_rows: int | None) -> None:
    """The list is at the temperature already; only the student is divided by it."""
    student, teacher = batch()
    keep = torch.tensor([True, False, True, True, True])
    heat = 2.0
    listed = top_k(teacher / heat, 3)
    term = Term("sparse_kl", sparse_kl, temperature=heat, temperature_power=2, listed=True)
    given = {"token_ids": listed.token_ids, "tail": listed.tail}
    share = Share(term, listed.log_probs, keep, 4.0, given)

    def reduced(z: Tensor) -> Tensor:
        return reduce_rows(z, [share], chunk_rows=chunk_rows).total

    def plain(z: Tensor) -> Tensor:
        return heat**2 * forward(z / heat, listed)[keep].mean()

    torch.testing.assert_close(reduced(student), plain(student))
    torch.testing.assert_close(gradient(reduced, student), gradient(plain, student))
