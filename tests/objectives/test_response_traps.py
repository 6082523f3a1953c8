"""Traps that peers fell into on logits, one test each: what theirs does, and that ours does not."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attar.objectives.response import dist, dkd, forward_kl, jsd
from objectives.draws import batch, gradient
from objectives.peers import dkd_of_the_authors, torchdistill, trl

LABELS = torch.tensor([0, 10, 3, 3, 7])
betas = pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])


def chunked(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """TRL's chunked divergence of logits: they are the bias of a head that adds nothing."""
    kernel = trl("kernels.chunked_divergence").ChunkedDivergenceFunction
    rows = zip(student.float(), teacher.float(), strict=True)
    nothing, head = torch.zeros(1, 1), torch.zeros(student.shape[1], 1)
    return torch.cat([kernel.apply(nothing, head, ours, nothing, head, theirs, beta)[0] for ours, theirs in rows])


def test_trap_batchmean_is_a_mean_over_sequences_only() -> None:
    """Without labels GKD divides [B, T, V] by B, and reduction="mean" by B T V."""
    peer = trl("experimental.gkd.gkd_trainer").GKDTrainer.generalized_jsd_loss
    student, teacher = (logits.reshape(3, 4, 9) for logits in batch(12, 9))
    values = forward_kl(student, teacher)
    assert values.shape == (3, 4)
    torch.testing.assert_close(peer(student, teacher, beta=0.0), 4 * values.mean())
    torch.testing.assert_close(peer(student, teacher, beta=0.0, reduction="mean"), values.mean() / 9)


@betas
def test_trap_masked_outputs_make_the_loss_nan(beta: float) -> None:
    """-inf on both sides means that neither gives the output probability, and 0 log 0 is 0."""
    gkd = trl("experimental.gkd.gkd_trainer").GKDTrainer.generalized_jsd_loss
    liger = import_module("liger_kernel.chunked_loss.jsd_loss").LigerFusedLinearJSDFunction.distillation_loss_fn
    student, teacher = batch()
    student[:, 3] = teacher[:, 3] = -torch.inf
    assert gkd(student, teacher, beta=beta).isnan()
    assert liger(student, teacher, beta=beta).isnan()
    assert chunked(student, teacher, beta).isnan().all()
    assert torchdistill("KDLoss", student, teacher, temperature=1.0, alpha=0.0).isnan()
    assert dkd_of_the_authors(student, teacher, LABELS, 1.0, 8.0, 1.0).isnan()
    leaf = student.requires_grad_()
    for value in (jsd(leaf, teacher, beta=beta), dkd(leaf, teacher, labels=LABELS)):
        assert value.isfinite().all()
        assert gradient(value, leaf).isfinite().all()


@betas
def test_trap_rounding_makes_a_divergence_negative(beta: float) -> None:
    gkd = trl("experimental.gkd.gkd_trainer").GKDTrainer.generalized_jsd_loss
    student, teacher = (logits.float() for logits in batch(400, 64))
    near = teacher + 1e-4 * student
    assert gkd(near, teacher, beta=beta, reduction="none").sum(-1).min() < 0
    assert chunked(near, teacher, beta).min() < 0
    assert jsd(near, teacher, beta=beta).min() >= 0


def test_trap_part_of_a_distribution_has_no_divergence() -> None:
    """GOLD compares matched tokens as they are; what does not sum to 1 has a negative "KL", and rewards more mass."""
    gold = trl("experimental.gold.gold_trainer").GOLDTrainer.generalized_jsd_loss
    student, teacher = batch()
    likely, matched = teacher.softmax(-1)[:, :4], 1.1 * teacher.softmax(-1)[:, :4]
    assert gold(likely, likely, beta=0.0, logits_are_probs=True) == 0
    assert gold(matched, likely, beta=0.0, logits_are_probs=True) < 0
    assert (forward_kl(student[:, :4], teacher[:, :4]) >= 0).all()


def test_trap_a_narrow_student_is_padded_with_logits_of_0() -> None:
    """Liger gives a teacher's extra words, which nobody says, the probability of a logit of 0 on the student's side."""
    peer = import_module("liger_kernel.chunked_loss.jsd_loss").LigerFusedLinearJSDLoss
    hidden, _ = batch(4, 5, scale=0.5)
    head = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(4, 1, dtype=torch.float64)
    wider = torch.cat((head, torch.zeros(2, 5))), torch.cat((torch.zeros(9, 1), torch.full((2, 1), -50.0)))
    loss = peer(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False)
    theirs = loss(hidden, head, torch.cat((hidden, ones), -1), torch.cat(wider, -1).double(), torch.zeros(4).long())
    assert theirs > 0.1
    assert (forward_kl(hidden @ head.T, hidden @ head.T) == 0).all()
    with pytest.raises(RuntimeError, match="size"):
        forward_kl(hidden @ head.T, torch.cat((hidden, ones), -1) @ torch.cat(wider, -1).double().T)


@pytest.mark.parametrize("name", ["KDLoss", "LogitStdKDLoss"])
def test_trap_the_square_of_the_temperature_on_one_branch_only(name: str) -> None:
    """Torchdistill's KD without a cross-entropy lacks T^2: its gradient is T^2 smaller than with the tiniest one."""
    student, teacher = batch()
    alone, beside = (
        torchdistill(name, student, teacher, LABELS, temperature=3.0, alpha=alpha, beta=1.0) for alpha in (0.0, 1e-12)
    )
    torch.testing.assert_close(beside, 9 * alone)


def test_trap_half_of_the_batch_is_left_out() -> None:
    """Torchdistill's SKD in the mode `code` drops rows on which the teacher is sure, but not from the count."""
    student, teacher = batch()
    values = forward_kl(student, teacher)
    sure = teacher.softmax(-1).amax(-1)
    theirs = torchdistill("SKDInstanceLoss", student, teacher, temperature=1.0, mode="code")
    torch.testing.assert_close(theirs, values[sure <= sure.median()].sum() / len(values))


def test_trap_a_line_without_variance_is_uncorrelated() -> None:
    """DIST of one row is 1 and more where both sides agree, for every column of one row is constant."""
    _, teacher = batch()
    flat = torch.cat((teacher, torch.zeros(1, 11, dtype=torch.float64)))
    assert torchdistill("DISTLoss", teacher[:1], teacher[:1]) == pytest.approx(1)
    assert torchdistill("DISTLoss", flat, flat, gamma=0.0) == pytest.approx(1 / 6)
    assert dist(teacher[:1], teacher[:1]) == dist(flat, flat) == 0


def test_trap_an_epsilon_outweighs_a_rare_output() -> None:
    """DIST's 1e-8 in the denominator: columns of rare tokens are uncorrelated with themselves."""
    _, teacher = batch()
    teacher[:, 4:] -= 40.0
    assert torchdistill("DISTLoss", teacher, teacher) > 0.6
    assert dist(teacher, teacher) == 0


@pytest.mark.parametrize("side", ["student", "both"])
def test_trap_dkd_of_a_saturated_label_is_not_finite(side: str) -> None:
    """The logarithm of 1 - p, taken after 1 - p has become 0."""
    student, teacher = (logits.float() for logits in batch())
    sure = 200.0 * functional.one_hot(LABELS, 11)
    leaf = (student + sure).requires_grad_()
    target = teacher + sure if side == "both" else teacher
    theirs, ours = dkd_of_the_authors(leaf, target, LABELS, 1.0, 8.0, 1.0), dkd(leaf, target, labels=LABELS)
    assert not theirs.isfinite()
    assert not gradient(theirs, leaf).isfinite().all()
    assert ours.isfinite().all()
    assert gradient(ours, leaf).isfinite().all()
