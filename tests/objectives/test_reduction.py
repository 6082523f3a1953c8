"""The reduction: denominators, temperature, masks, precision, finiteness; and the traps that others fell into."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attar.errors import TrainingError
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import Reduced, Share, Term
from attar.objectives.response import forward_kl, jsd, logit_mse, reverse_kl
from attar.objectives.sparse import sparse_kl, top_k
from attar.objectives.supervised import cross_entropy

KL = Term("forward_kl", forward_kl, temperature_power=2)


def batch(rows: int = 6, width: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, rows, width, dtype=torch.float64, generator=generator).to(dtype)
    return student.requires_grad_(), teacher


def one(student: Tensor, teacher: Tensor, term: Term = KL, keep: Tensor | None = None, **options: int) -> Reduced:
    count = len(student) if keep is None else int(keep.sum())
    return reduce_rows(student, [Share(term, teacher, keep, count)], **options)


@pytest.mark.parametrize("function", [forward_kl, reverse_kl, jsd, lambda s, t: jsd(s, t, beta=0.0)])
@pytest.mark.parametrize("standardise", [False, True])
def test_temperature_squared_on_every_branch(function, standardise: bool) -> None:
    student, teacher = batch()
    term = Term("x", function, temperature=3.0, temperature_power=2, standardise=standardise)
    scored = [(z - z.mean(-1, keepdim=True)) / (z.std(-1, keepdim=True) + 1e-7) for z in (student, teacher)]
    sides = scored if standardise else [student, teacher]
    torch.testing.assert_close(one(student, teacher, term).total, 9 * function(sides[0] / 3, sides[1] / 3).mean())


def test_the_temperature_power_is_the_terms_own() -> None:
    student, teacher = batch()
    total = one(student, teacher, Term("logit_mse", logit_mse, temperature=2.0)).total
    torch.testing.assert_close(total, logit_mse(student, teacher).mean() / 4)
    cubed = one(student, teacher, Term("x", logit_mse, temperature=2.0, temperature_power=3)).total
    torch.testing.assert_close(cubed, logit_mse(student, teacher).mean() * 2)


def test_weighted_sum_and_each_value_by_itself() -> None:
    student, teacher = batch()
    labels = torch.tensor([0, 1, -100, 2, -100, 4])
    keep = labels != -100
    terms = [Term("a", forward_kl, 0.7), Term("b", cross_entropy, 0.3)]
    reduced = reduce_rows(student, [Share(terms[0], teacher, None, 6), Share(terms[1], labels, keep, 4)])
    kl, ce = forward_kl(student, teacher).mean(), functional.cross_entropy(student, labels)
    torch.testing.assert_close(reduced.values, [kl.detach(), ce.detach()])
    torch.testing.assert_close(reduced.total, 0.7 * kl + 0.3 * ce)


@pytest.mark.parametrize("chunk_rows", [1, 2, 4, 100])
def test_chunks_change_nothing(chunk_rows: int) -> None:
    student, teacher = batch()
    labels, keep = torch.tensor([0, 9, 1, 9, 9, 2]), torch.tensor([1, 0, 1, 0, 0, 1]).bool()
    some = torch.tensor([0, 1, 1, 0, 0, 1]).bool()
    shares = [Share(KL, teacher, some, 3), Share(Term("labels", cross_entropy), labels, keep, 3)]
    whole, parts = reduce_rows(student, shares), reduce_rows(student, shares, chunk_rows=chunk_rows)
    torch.testing.assert_close(parts.total, whole.total)
    torch.testing.assert_close(parts.values, whole.values)
    gradients = [torch.autograd.grad(reduced.total, student)[0] for reduced in (whole, parts)]
    torch.testing.assert_close(*gradients)
    assert (gradients[0][[3, 4]] == 0).all()  # rows that no term keeps


def test_everything_masked_is_zero_with_a_live_graph() -> None:
    student, teacher = batch()
    reduced = one(student, teacher * torch.nan, keep=torch.zeros(6, dtype=torch.bool))
    assert reduced.total.requires_grad
    assert reduced.total.item() == 0.0
    reduced.total.backward()
    assert (student.grad == 0).all()


def test_an_empty_share_beside_a_full_one() -> None:
    student, teacher = batch()
    nothing = Share(Term("labels", cross_entropy), torch.full((6,), -100), torch.zeros(6, dtype=torch.bool), 0)
    reduced = reduce_rows(student, [Share(KL, teacher, None, 6), nothing])
    assert reduced.values[1].item() == 0.0
    torch.testing.assert_close(reduced.total, forward_kl(student, teacher).mean())


@pytest.mark.parametrize("keep", [None, torch.tensor([True] + [False] * 5)])
def test_a_count_of_zero_with_kept_rows_is_refused(keep: Tensor | None) -> None:
    student, teacher = batch()
    with pytest.raises(ValueError, match="count is 0"):
        reduce_rows(student, [Share(KL, teacher, keep, 0)])


# Traps.


def test_trap_mean_of_means() -> None:
    """Micro-batches with unlike numbers of kept rows: the mean of their means is not the mean."""
    student, teacher = batch()
    keep = torch.tensor([1, 1, 1, 1, 1, 0]).bool()
    whole = one(student, teacher, keep=keep).total
    halves = [slice(0, 3), slice(3, 6)]
    parts = [reduce_rows(student[h], [Share(KL, teacher[h], keep[h], 5)]).total for h in halves]
    torch.testing.assert_close(sum(parts), whole)
    means = [one(student[h], teacher[h], keep=keep[h]).total for h in halves]
    assert not torch.isclose(sum(means) / 2, whole)


def test_trap_batchmean_and_mean_denominators() -> None:
    """On tokens [B, T, V] torch's `batchmean` divides by B and `mean` also by V; the mean is over kept tokens."""
    student, teacher = (side.reshape(2, 3, 5) for side in batch())
    pair = student.log_softmax(-1), teacher.log_softmax(-1)
    ours = one(student.flatten(0, 1), teacher.flatten(0, 1)).total
    torch.testing.assert_close(functional.kl_div(*pair, reduction="batchmean", log_target=True) / 3, ours)
    with pytest.warns(UserWarning, match="support size"):
        by_entries = functional.kl_div(*pair, reduction="mean", log_target=True)
    torch.testing.assert_close(by_entries * 5, ours)


def test_trap_teacher_with_gradient() -> None:
    """An own function that forgets to detach the teacher still sends it nothing."""
    student, _ = batch()
    teacher = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    one(student, teacher, Term("own", lambda s, t: (s - t).square().sum(-1))).total.backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_trap_masked_by_multiplication() -> None:
    """NaN * 0 is NaN: masked rows are left out, not multiplied by 0."""
    student, teacher = batch()
    keep = torch.tensor([1, 1, 0, 1, 1, 0]).bool()
    broken = student.detach().masked_fill(~keep.unsqueeze(1), torch.nan).requires_grad_()
    total = one(broken, teacher.masked_fill(~keep.unsqueeze(1), -torch.inf), keep=keep).total
    total.backward()
    torch.testing.assert_close(total, forward_kl(student[keep], teacher[keep]).mean())
    assert torch.isfinite(broken.grad).all()


# Precision.


def close_pair(rows: int = 32, width: int = 200, hidden: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, a head, and teacher logits at a KL of about 0.01; all exact in bf16 but the logits."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, hidden, generator=generator).bfloat16()
    head = torch.randn(width, hidden, generator=generator).bfloat16()
    teacher = states.double() @ head.double().T + 0.15 * torch.randn(rows, width, generator=generator)
    return states, head, teacher


def relative(got: Tensor, exact: Tensor) -> float:
    return float((got.detach().double() - exact.detach()).norm() / exact.detach().norm())


def test_bf16_states_with_a_float32_head_are_within_one_per_cent() -> None:
    states, head, teacher = close_pair()
    exact = (states.double() @ head.double().T).requires_grad_()
    oracle = one(exact, teacher)
    oracle.total.backward()
    assert 0.005 < oracle.total.item() < 0.02
    ours = (states.float() @ head.float().T).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total = one(ours, teacher.float()).total
    total.backward()
    assert total.dtype is torch.float32
    assert relative(total, oracle.total) < 0.01
    assert relative(ours.grad, exact.grad) < 0.01


def test_bf16_logits_are_reduced_exactly_but_have_lost_their_digits_before() -> None:
    """Promised for bf16 logits: loss and gradient of the logits as they came; casting after the matmul is too late."""
    states, head, teacher = close_pair()
    exact = (states.double() @ head.double().T).requires_grad_()
    rounded = exact.detach().bfloat16().requires_grad_()
    as_came = exact.detach().bfloat16().double().requires_grad_()
    for leaf in (exact, rounded, as_came):
        one(leaf, teacher if leaf.dtype is torch.float64 else teacher.float()).total.backward()
    assert relative(rounded.grad, as_came.grad) < 0.01
    assert relative(rounded.grad, exact.grad) > 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_arithmetic_is_float32_under_autocast(dtype: torch.dtype) -> None:
    student, teacher = batch(dtype=dtype)
    seen = []

    def spy(s: Tensor, t: Tensor) -> Tensor:
        seen.extend([s.dtype, t.dtype, (s @ s.T).dtype])
        return forward_kl(s, t)

    with torch.autocast("cpu", torch.bfloat16):
        total = one(student, teacher, Term("spy", spy)).total
    assert set(seen) == {torch.float32}
    assert total.dtype is torch.float32


# Finiteness.


def test_student_without_mass_where_the_teacher_has_it_names_row_and_token() -> None:
    student, teacher = batch()
    broken = student.detach().clone()
    broken[4, 2] = -torch.inf
    for function in (forward_kl, reverse_kl, jsd):
        with pytest.raises(TrainingError, match=r"objective: row 4: the student's logit of token 2 is -inf"):
            one(broken, teacher, Term("objective", function))


def test_the_row_is_that_of_the_batch_whatever_is_masked_and_chunked() -> None:
    student, teacher = batch()
    broken = student.detach().clone()
    broken[4, 2] = -torch.inf
    keep = torch.tensor([0, 1, 0, 1, 1, 0]).bool()
    other = Share(Term("other", forward_kl), student.detach(), torch.tensor([0, 1, 1, 1, 0, 0]).bool(), 3)
    for shares in ([Share(KL, teacher, keep, 3)], [Share(KL, teacher, keep, 3), other], [Share(KL, teacher, None, 6)]):
        for chunk_rows in (None, 1, 2):
            with pytest.raises(TrainingError, match=r"row 4: .* token 2 "):
                reduce_rows(broken, shares, chunk_rows=chunk_rows)


def test_teacher_without_mass_where_the_student_has_it() -> None:
    student, teacher = batch()
    teacher[1, 3] = -torch.inf
    assert torch.isfinite(one(student, teacher).total)
    assert torch.isfinite(one(student, teacher, Term("jsd", jsd)).total)
    with pytest.raises(TrainingError, match="row 1: the value is inf"):
        one(student, teacher, Term("reverse_kl", reverse_kl))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_and_inf_are_named(value: float, side: int) -> None:
    sides = [z.detach().clone() for z in batch()]
    sides[side][2, 1] = value
    with pytest.raises(TrainingError, match=rf"row 2: the {('student', 'target')[side]} is {value} at token 1"):
        one(sides[0].requires_grad_(), sides[1])


def test_a_function_that_is_not_one_value_a_row_is_told_so() -> None:
    student, teacher = batch()
    with pytest.raises(TrainingError, match=r"gave shape \[6, 5\] for 6 rows"):
        one(student, teacher, Term("own", lambda s, t: s - t))


def test_rows_of_both_sides_must_match() -> None:
    student, teacher = batch()
    with pytest.raises(TrainingError, match="6 student rows, but 4 target rows"):
        one(student, teacher[:4])


def test_infinities_on_both_sides_cost_no_second_pass() -> None:
    """Masked tokens are legal: only a student's -inf where the teacher is finite is looked into."""
    student, teacher = batch()
    asked: list[int] = []

    def counted(s: Tensor, t: Tensor) -> Tensor:
        asked.append(len(s))
        return forward_kl(s, t)

    masked = student.detach().clone()
    masked[:, 1] = teacher[:, 1] = -torch.inf
    one(masked.requires_grad_(), teacher, Term("counted", counted))
    assert asked == [6]


def test_a_list_as_wide_as_the_vocabulary_is_no_row_of_logits() -> None:
    """Its columns are tokens in the list's own order: the student's -inf stands in another one than the teacher's."""
    student, teacher = batch()
    masked = student.detach().clone()
    masked[:, 0] = teacher[:, 0] = -torch.inf
    listed = top_k(teacher, 5)
    term = Term("sparse_kl", sparse_kl, listed=True)
    given = {"token_ids": listed.token_ids}
    total = reduce_rows(masked.requires_grad_(), [Share(term, listed.log_probs, None, 6, given)]).total
    torch.testing.assert_close(total, forward_kl(masked, teacher).mean())
