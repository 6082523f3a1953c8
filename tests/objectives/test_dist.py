"""What holds for the correlation of probabilities; hypothesis looks for rows that break it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attar.objectives.response import dist
from objectives.draws import batch, gradient, pairs, quick


@quick
@given(both=pairs(4), stretch=st.floats(0.1, 0.9))
def test_dist_does_not_see_a_line(both: tuple[Tensor, Tensor], stretch: float) -> None:
    """A student between the teacher and the uniform answer has q = a p + c along every row and column."""
    _, teacher = both
    mixed = (stretch * teacher.softmax(-1) + (1 - stretch) / 4).log()
    assert dist(mixed, teacher) < 1e-9
    assert 0 <= dist(*both) <= 4 + 1e-12


def test_dist_of_one_row_has_no_columns_and_none_has_nothing() -> None:
    student, teacher = batch()
    student.requires_grad_()
    one = dist(student[:1], teacher[:1], gamma=5.0)
    torch.testing.assert_close(one, dist(student[:1], teacher[:1], gamma=0.0))
    assert one > 0
    assert (gradient(dist(student[:1], teacher[:1], beta=0.0), student) == 0).all()
    nothing = dist(student[:0], teacher[:0])
    assert nothing.item() == 0
    assert (gradient(nothing, student) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dist_leaves_constant_lines_out(dtype: torch.dtype) -> None:
    student, teacher = (logits.to(dtype) for logits in batch(rows=4, width=6))
    for flat in (teacher.new_zeros(1, 6), teacher.new_full((1, 6), 7.3)):
        rows = [
            dist(torch.cat((student, s)), torch.cat((teacher, t)), gamma=0.0)
            for s, t in ((flat, student[:1]), (student[:1], flat), (flat, flat))
        ]
        for value in rows:
            torch.testing.assert_close(value, dist(student, teacher, gamma=0.0))
    equal = teacher[:1].expand(4, 6) + torch.linspace(-3, 3, 4, dtype=dtype).unsqueeze(-1)
    for sides in ((student, equal), (equal, teacher), (equal, equal)):
        leaf = sides[0].clone().requires_grad_()
        value = dist(leaf, sides[1], beta=0.0)
        assert value.item() == 0
        assert (gradient(value, leaf) == 0).all()


@quick
@given(both=pairs(5), dead=st.sets(st.integers(0, 4), max_size=3))
def test_dist_leaves_dead_outputs_out(both: tuple[Tensor, Tensor], dead: set[int]) -> None:
    student, teacher = both[0].clone(), both[1].clone()
    student[:, list(dead)] = teacher[:, list(dead)] = -torch.inf
    alive = [column for column in range(5) if column not in dead]
    leaf = student.requires_grad_()
    value = dist(leaf, teacher)
    torch.testing.assert_close(value, dist(both[0][:, alive], both[1][:, alive]), rtol=1e-6, atol=1e-9)
    assert torch.isfinite(gradient(value, leaf)).all()


def test_dist_leaves_an_entry_out_that_is_dead_in_its_row_alone() -> None:
    student, teacher = batch(rows=4, width=6)
    student[0, 1] = teacher[0, 1] = -torch.inf
    q, p = student.softmax(-1), teacher.softmax(-1)
    rows = [np.corrcoef(q[0, [0, 2, 3, 4, 5]], p[0, [0, 2, 3, 4, 5]])[0, 1]]
    rows += [np.corrcoef(q[i], p[i])[0, 1] for i in (1, 2, 3)]
    columns = [np.corrcoef(q[1:, 1], p[1:, 1])[0, 1]] + [np.corrcoef(q[:, i], p[:, i])[0, 1] for i in (0, 2, 3, 4, 5)]
    assert dist(student, teacher).item() == pytest.approx(2 - np.mean(rows) - np.mean(columns), rel=1e-9)


def test_dist_keeps_rare_outputs_and_digits() -> None:
    """Columns of 1e-13 and below are a vocabulary's rule, and squares of them are nothing in float32."""
    student, teacher = batch(rows=6, width=8)
    rare = torch.zeros(8, dtype=torch.float64)
    rare[4:] = -60.0
    exact = dist(student + rare, teacher + rare)
    torch.testing.assert_close(
        dist((student + rare).float(), (teacher + rare).float()).double(), exact, rtol=1e-4, atol=0
    )
    assert dist((teacher + rare).float(), (teacher + rare).float()) == 0
    near = (teacher + 1e-3 * student).float()
    expected = dist(near.double(), teacher.float().double())
    torch.testing.assert_close(dist(near, teacher.float()).double(), expected, rtol=0.01, atol=0)


def test_dist_has_no_scale() -> None:
    student, teacher = batch(scale=1.0)
    hot, hotter = (dist(student / t, teacher / t) for t in (1e3, 1e4))
    torch.testing.assert_close(hot, hotter, rtol=1e-2, atol=0)
