"""Objectives on relations against the float64 oracle, and against peers who have the same function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torchdistill.losses.mid_level import CRDLoss, RKDLoss, SPKDLoss

from attar.objectives.relation import (
    ContrastiveHeads,
    cka,
    cka_similarity,
    crd,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from objectives.oracles import relation

WIDTHS = [(5, 5), (3, 8), (40, 2)]
GEOMETRIC = [cka, rkd_distance, rkd_angle, similarity_preserving]
quick = settings(max_examples=25, derandomize=True)


def batch(rows: int = 6, widths: tuple[int, int] = (5, 5), scale: float = 1.0, seed: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(rows, w, dtype=torch.float64, generator=generator) for w in widths)
    return student, teacher


@pytest.mark.parametrize("function", GEOMETRIC, ids=lambda f: f.__name__)
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_value_is_the_oracles(
    function: Callable[[Tensor, Tensor], Tensor], widths: tuple[int, int], scale: float
) -> None:
    student, teacher = batch(widths=widths, scale=scale)
    expected = getattr(relation, function.__name__)(student.numpy(), teacher.numpy())
    np.testing.assert_allclose(function(student, teacher), expected, rtol=1e-9)
    np.testing.assert_allclose(function(student.float(), teacher.float()), expected, rtol=1e-4)


@pytest.mark.parametrize("function", GEOMETRIC, ids=lambda f: f.__name__)
def test_maps_are_taken_as_one_vector_a_row(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = batch(widths=(12, 8))
    assert torch.equal(
        function(student.view(6, 3, 2, 2), teacher.view(6, 2, 2, 2)),
        function(student, teacher),
    )


@quick
@given(seed=st.integers(0, 2**31), rows=st.integers(3, 7), shift=st.floats(-5, 5))
def test_shapes_alone_matter(seed: int, rows: int, shift: float) -> None:
    """What is turned, moved and stretched is the same shape."""
    student, teacher = batch(rows, seed=seed)
    turn = torch.linalg.qr(student.T @ student + torch.eye(5, dtype=torch.float64))[0]
    moved = 3 * student @ turn
    for function in (cka, rkd_distance, rkd_angle):
        torch.testing.assert_close(function(moved + shift, teacher), function(student, teacher), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(similarity_preserving(moved, teacher), similarity_preserving(student, teacher))


@quick
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 7))
def test_values_keep_their_bounds(seed: int, rows: int) -> None:
    student, teacher = batch(rows, widths=(3, 4), seed=seed)
    assert 0 <= cka(student, teacher) <= 1 + 1e-12
    assert 0 <= cka_similarity(student, teacher) <= 1
    assert 0 <= rkd_angle(student, teacher) <= 1.5
    assert 0 <= rkd_distance(student, teacher)
    assert 0 <= similarity_preserving(student, teacher) <= 4 / rows
    assert crd(student, teacher[:, :3]) >= 0


@pytest.mark.parametrize("widths", WIDTHS)
def test_cka_is_one_less_similarity(widths: tuple[int, int]) -> None:
    student, teacher = batch(widths=widths)
    torch.testing.assert_close(cka_similarity(student, teacher), 1 - cka(student, teacher))


def test_cka_keeps_its_digits_near_zero() -> None:
    """1 - similarity would leave 1e-7 of a value of 1e-9."""
    student, teacher = batch()
    near = teacher + 1e-4 * student
    exact = relation.cka(near.float().double().numpy(), teacher.float().double().numpy())
    np.testing.assert_allclose(cka(near.float(), teacher.float()), exact, rtol=0.01)


def test_cka_knows_a_stretch_along_one_axis() -> None:
    _, teacher = batch(rows=9)
    assert cka(teacher * torch.tensor([10.0, 1, 1, 1, 1]), teacher) > 0.1


def test_cka_of_one_point_is_like_that_of_another_point_and_of_nothing_else() -> None:
    student, teacher = batch()
    point = torch.full((6, 3), 0.1, dtype=torch.float64)  # the mean of six 0.1 is not 0.1 in every precision
    for one in (point, point.float(), torch.zeros(6, 3)):
        leaf = one.clone().requires_grad_()
        value = cka(leaf, teacher.to(one.dtype))
        value.backward()
        assert value.item() == pytest.approx(1)
        assert leaf.grad.abs().max() == 0
        assert cka_similarity(one, teacher.to(one.dtype)) == 0
        assert cka(student.to(one.dtype), one).item() == pytest.approx(1)
        assert cka(one, 3 * one) == 0
        assert cka_similarity(one, 3 * one) == 1
    assert cka(student[:2], teacher[:2]) < 1e-15
    assert cka_similarity(student[:1], teacher[:1]) == cka_similarity(student[:0], teacher[:0]) == 1


def peer_rkd() -> RKDLoss:
    return RKDLoss("student", "teacher", 1.0, 1.0, "mean")


@pytest.mark.parametrize("widths", WIDTHS)
def test_rkd_agrees_with_torchdistill(widths: tuple[int, int]) -> None:
    """Both take the mean over all N^2 pairs and N^3 corners; theirs has no value for one row."""
    student, teacher = batch(widths=widths)
    peer = peer_rkd()
    torch.testing.assert_close(rkd_distance(student, teacher), peer.compute_rkd_distance_loss(teacher, student))
    torch.testing.assert_close(rkd_angle(student, teacher), peer.compute_rkd_angle_loss(teacher, student))
    assert peer.compute_rkd_distance_loss(teacher[:1], student[:1]).isnan()


def test_trap_rkd_counts_coinciding_rows_in_the_mean_distance() -> None:
    """The authors clamp squared distances to 1e-12, so these are 1e-6, and doubling the batch moves the value."""
    student, teacher = batch()
    twice = torch.cat([student] * 2), torch.cat([teacher] * 2)
    theirs = peer_rkd().compute_rkd_distance_loss
    torch.testing.assert_close(rkd_distance(*twice), rkd_distance(student, teacher))
    assert abs(theirs(twice[1], twice[0]) / theirs(teacher, student) - 1) > 0.05


def test_trap_rkd_loses_near_distances_by_expanding_the_square() -> None:
    student, teacher = batch(rows=5)
    near, far = (1e-3 * student + 10).float(), teacher.float()
    exact = relation.rkd_distance(near.double().numpy(), far.double().numpy())
    np.testing.assert_allclose(rkd_distance(near, far), exact, rtol=1e-3)
    assert abs(float(peer_rkd().compute_rkd_distance_loss(far, near)) / exact - 1) > 0.1


def test_trap_rkd_angles_of_coinciding_rows_explode() -> None:
    """Dividing by a length of at least 1e-12 gives a direction's gradient that factor."""
    student, teacher = batch()
    student[1] = student[0]
    gradients = []
    for function in (rkd_angle, lambda s, t: peer_rkd().compute_rkd_angle_loss(t, s)):
        leaf = student.clone().requires_grad_()
        function(leaf, teacher).backward()
        gradients.append(float(leaf.grad.abs().max()))
    assert gradients[0] < 1
    assert gradients[1] > 1e6


def test_trap_torchdistill_takes_the_similarities_rows_at_unit_sum() -> None:
    """It passes 1 for the power where the authors have 2, the default; with their power it is ours."""
    student, teacher = batch(widths=(3, 8))
    peer = SPKDLoss("student", "teacher", "batchmean")
    ours, theirs = (peer.matmul_and_normalize(side) for side in (student, teacher))
    torch.testing.assert_close(ours.abs().sum(-1), torch.ones(6, dtype=torch.float64))
    mended = (functional.normalize(ours) - functional.normalize(theirs)).square().sum() / 36
    torch.testing.assert_close(similarity_preserving(student, teacher), mended)


def test_similarity_falls_as_the_batch_grows() -> None:
    student, teacher = batch()
    twice = similarity_preserving(torch.cat([student] * 2), torch.cat([teacher] * 2))
    torch.testing.assert_close(2 * twice, similarity_preserving(student, teacher))


@pytest.mark.parametrize("queue", [0, 4])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_crd_is_the_oracles(queue: int, temperature: float) -> None:
    student, teacher = batch()
    negatives = batch(queue, seed=9)
    expected = relation.crd(*(side.numpy() for side in (student, teacher, *negatives)), temperature)
    given_queue = {"student_negatives": negatives[0], "teacher_negatives": negatives[1]} if queue else {}
    value = crd(student, teacher, **given_queue, temperature=temperature)
    np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_crd_agrees_with_torchdistill() -> None:
    """Their memory holds the batch itself. Their m is fixed by the first batch, positives included; here it is ours."""
    student, teacher = (functional.normalize(side) for side in batch())
    rows = len(student)
    peer = CRDLoss("student", "empty", "teacher", 5, rows, rows - 1, rows, temperature=0.5).double()
    others = torch.tensor([[row, *(at for at in range(rows) if at != row)] for row in range(rows)])
    peer.memory_v1.copy_(student)
    peer.memory_v2.copy_(teacher)
    scores = (student @ teacher.mT / 0.5).exp()
    peer.params[2:4] = scores[~torch.eye(rows, dtype=torch.bool)].mean() * rows
    parts = peer.contrast_memory(student, teacher, torch.arange(rows), others)
    theirs = sum(peer.compute_contrast_loss(part) for part in parts)
    torch.testing.assert_close(crd(student, teacher, temperature=0.5), theirs.squeeze(), rtol=1e-5, atol=0)


def test_crd_brings_pairs_together() -> None:
    student, teacher = batch()
    aligned, shuffled = crd(teacher, teacher), crd(teacher.roll(1, 0), teacher)
    assert 0 < aligned < crd(student, teacher) < shuffled


def test_crd_without_negatives_is_nothing() -> None:
    student, teacher = batch(1)
    leaf = student.requires_grad_()
    value = crd(leaf, teacher)
    value.backward()
    assert value == 0
    assert (leaf.grad == 0).all()
    assert crd(student, teacher, teacher_negatives=batch(3)[1]) > 0


def test_heads_leave_the_global_random_state_and_come_from_their_seed() -> None:
    before = torch.get_rng_state()
    made = [ContrastiveHeads(5, 3, seed=seed, name="crd", width=4, negatives=2).state_dict() for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    for key in made[0]:
        assert torch.equal(made[0][key], made[1][key])
        assert not torch.equal(made[0][key], made[2][key])
    assert not torch.equal(made[0]["student_negatives"], made[0]["teacher_negatives"])


def test_queue_takes_the_newest_embeddings_in_training_only() -> None:
    heads = ContrastiveHeads(5, 3, seed=0, name="crd", width=4, negatives=3)
    student, teacher = (side.float() for side in batch(2, widths=(5, 3)))
    before = heads.teacher_negatives.clone()
    heads.eval()(student, teacher)
    assert torch.equal(heads.teacher_negatives, before)
    heads.train()(student, teacher)
    embedded = functional.normalize(heads.teacher_head(teacher)).detach()
    torch.testing.assert_close(heads.teacher_negatives, torch.cat([embedded, before[:1]]))
    assert len(heads.student_negatives) == 3


def test_both_heads_learn_and_the_teacher_does_not() -> None:
    heads = ContrastiveHeads(5, 3, seed=0, name="crd", width=4)
    student, teacher = (side.float().requires_grad_() for side in batch(4, widths=(5, 3)))
    heads(student, teacher).backward()
    assert heads.student_head.weight.grad.abs().max() > 0
    assert heads.teacher_head.weight.grad.abs().max() > 0
    assert teacher.grad is None
