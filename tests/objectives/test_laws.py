"""The contract of objectives, for all of them from one table; hypothesis looks for rows that break it."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.objectives import response
from attar.recipe.objectives import AnyObjectiveSpec
from attar.testing import check_objective
from objectives.draws import pairs, quick
from objectives.laws import BATCH_TABLE, TABLE, Entry

entries = pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name.replace(" ", "_"))


def test_no_kind_escapes_the_table() -> None:
    kinds = {get_args(spec.model_fields["kind"].annotation)[0] for spec in get_args(get_args(AnyObjectiveSpec)[0])}
    assert kinds <= {entry.kind for entry in [*TABLE, *BATCH_TABLE]}


def test_no_function_escapes_the_table() -> None:
    assert {*response.__all__, "standardise_logits"} <= {entry.name.split()[0] for entry in [*TABLE, *BATCH_TABLE]}


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
        "shift_invariant" in entry.broken or "standardise_logits" in entry.name
    ):  # z-scores of all but constant rows amplify rounding
        return
    student, teacher = data.draw(pairs(entry.width))
    before = entry.function(student, teacher)
    torch.testing.assert_close(entry.function(student + shift, teacher), before, rtol=1e-9, atol=1e-10)
