"""The contract of objectives, for all of them from one table; hypothesis looks for rows that break it."""

from __future__ import annotations

from typing import get_args

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attar.objectives.response import (
    alpha_beta,
    forward_kl,
    jsd,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    todi,
    total_variation,
)
from attar.recipe.objectives import AnyObjectiveSpec
from attar.testing import check_objective
from objectives.law_table import TABLE, Entry

entries = pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name.replace(" ", "_"))
quick = settings(max_examples=25, deadline=None, derandomize=True)


def pairs(width: int, dtype: type = np.float64) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    """Logits of both sides, [1..4, width], from -30 to 30."""
    span = st.floats(-30, 30, width=32 if dtype is np.float32 else 64)
    shapes = st.tuples(st.integers(1, 4), st.just(width))
    both = shapes.flatmap(lambda shape: st.tuples(*[arrays.arrays(dtype, shape, elements=span)] * 2))
    return both.map(lambda sides: (torch.from_numpy(sides[0]), torch.from_numpy(sides[1])))


def test_no_kind_escapes_the_table() -> None:
    kinds = {get_args(spec.model_fields["kind"].annotation)[0] for spec in get_args(get_args(AnyObjectiveSpec)[0])}
    assert kinds == {entry.kind for entry in TABLE}


@entries
def test_a_law_that_does_not_hold_has_a_reason(entry: Entry) -> None:
    assert all(len(reason) > 10 for reason in entry.broken.values())


@entries
@pytest.mark.parametrize("seed", [0, 1])
def test_objective_keeps_its_laws(entry: Entry, seed: int) -> None:
    check_objective(entry.function, **entry.declares(), seed=seed)


@entries
def test_teacher_gets_no_gradient_from_the_bare_function(entry: Entry) -> None:
    student = torch.randn(3, entry.width, requires_grad=True)
    teacher = torch.randn(3, entry.width, requires_grad=True)
    entry.function(student, teacher.detach() if entry.kind == "hard_labels" else teacher).sum().backward()
    assert teacher.grad is None


@entries
@quick
@given(data=st.data(), dtype=st.sampled_from([np.float32, np.float64]))
def test_never_negative_and_zero_where_both_agree(entry: Entry, data: st.DataObject, dtype: type) -> None:
    if "divergence" in entry.broken:
        return
    student, teacher = data.draw(pairs(entry.width, dtype))
    assert (entry.function(student, teacher) >= 0).all()
    assert (entry.function(teacher.clone(), teacher) == 0).all()


@entries
@quick
@given(data=st.data(), shift=st.floats(-50, 50))
def test_unmoved_by_a_shift(entry: Entry, data: st.DataObject, shift: float) -> None:
    if (
        "shift_invariant" in entry.broken or "standardised" in entry.name
    ):  # z-scores of all but constant rows amplify rounding
        return
    student, teacher = data.draw(pairs(entry.width))
    before = entry.function(student, teacher)
    torch.testing.assert_close(entry.function(student + shift, teacher), before, rtol=1e-9, atol=1e-10)


@quick
@given(both=pairs(5), dead=st.sets(st.integers(0, 4), max_size=4), beta=st.sampled_from([0.0, 0.3, 1.0]))
def test_dead_outputs_leave_value_and_gradient_finite(both: tuple[Tensor, Tensor], dead: set[int], beta: float) -> None:
    for function in (forward_kl, reverse_kl, lambda s, t: jsd(s, t, beta=beta)):
        student, teacher = both[0].clone(), both[1].clone()
        student[:, list(dead)] = teacher[:, list(dead)] = -torch.inf
        alive = [column for column in range(5) if column not in dead]
        leaf = student.requires_grad_()
        value = function(leaf, teacher)
        value.sum().backward()
        torch.testing.assert_close(value, function(both[0][:, alive], both[1][:, alive]))
        assert torch.isfinite(leaf.grad).all()


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
