"""The contract of batch objectives, for all of them from one table; and `check_batch` catches what it should."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attar.objectives.response import forward_kl
from objectives.batch_laws import check_batch
from objectives.laws import BATCH_TABLE, BatchEntry

entries = pytest.mark.parametrize("entry", BATCH_TABLE, ids=lambda entry: entry.name.replace(" ", "_"))


@entries
def test_a_law_that_does_not_hold_has_a_reason(entry: BatchEntry) -> None:
    assert all(len(reason) > 10 for reason in entry.broken.values())


@entries
@pytest.mark.parametrize("seed", [0, 1])
def test_batch_objective_keeps_its_laws(entry: BatchEntry, seed: int) -> None:
    check_batch(entry.function, **entry.declares(), seed=seed)


def mean_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return forward_kl(student, teacher).mean()


def sum_of_distances(student: Tensor, teacher: Tensor) -> Tensor:
    return (torch.cdist(student, student) - torch.cdist(teacher, teacher)).square().sum()


def of_unit_length(student: Tensor, teacher: Tensor) -> Tensor:
    return (student / student.norm() - teacher / teacher.norm()).square().sum()


def of_neighbours(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.diff(dim=0) - teacher.diff(dim=0)).square().sum() / max(len(student), 1)


def with_a_held_part(student: Tensor, teacher: Tensor) -> Tensor:
    return held_apart(student, teacher, student.detach())


def held_apart(student: Tensor, teacher: Tensor, held: Tensor) -> Tensor:
    return ((student - teacher.detach()).square() * held.square()).sum(-1).sum() / max(len(student), 1)


def with_a_teachers_gradient(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum() / max(len(student), 1)


@pytest.mark.parametrize(
    ("function", "law"),
    [
        (forward_kl, "a finite scalar: "),
        (mean_kl, "no rows: gave nan"),
        (mean_kl, "lone row: gave "),
        (lambda s, t: with_a_held_part(s, t) - 0.01, "divergence: negative"),
        (lambda s, t: with_a_held_part(s, t) + 0.01, "divergence: where the student is the teacher"),
        (sum_of_distances, "duplication: value"),
        (of_neighbours, "permutation: value"),
        (of_unit_length, "coinciding rows: the student is 0: gave nan"),
        (with_a_held_part, "gradient by finite differences: "),
        (with_a_teachers_gradient, "no gradient to the teacher"),
        (lambda s, t: with_a_held_part(s + 1e6, t + 1e6), "float32: the value"),
        (lambda s, t: with_a_held_part(s + 1e6, t + 1e6), "bf16 within 1 %: the loss"),
        (lambda s, t: held_apart(s, t, s).detach(), "a finite scalar: the value has no graph"),
    ],
)
def test_a_broken_law_is_named(function: Callable[[Tensor, Tensor], Tensor], law: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_batch(function)
    assert law in str(caught.value)


def test_an_invariance_that_does_not_hold_is_named() -> None:
    with pytest.raises(AssertionError, match="invariances: student move"):
        check_batch(with_a_held_part, lone_row=False, frozen=held_apart, invariances=["student_move"])


def test_laws_that_do_not_hold_can_be_declared() -> None:
    check_batch(with_a_held_part, lone_row=False, frozen=held_apart)
    check_batch(with_a_held_part, lone_row=False, finite_differences=False)
