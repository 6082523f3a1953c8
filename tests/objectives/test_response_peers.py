"""Objectives on logits against those of TRL, Liger and torchdistill; what differs is said in each test's first line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import Tensor

from attar.objectives.feature import cosine_distance
from attar.objectives.response import dist, dkd, forward_kl, jsd, sampled_token
from attar.objectives.supervised import cross_entropy
from attar.objectives.transform import standardise_logits
from objectives.draws import batch, gradient
from objectives.peers import dkd_of_the_authors, torchdistill, trl

BETAS = (0.0, 0.3, 0.5, 1.0)
T = 2.0

betas = pytest.mark.parametrize("beta", BETAS)


def heads() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(hidden, head) of a student and of a wider teacher: 12 tokens, 9 words, float32."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (
        (torch.randn(12, width, generator=generator), torch.randn(9, width, generator=generator)) for width in (5, 8)
    )
    return student, teacher


@betas
@pytest.mark.parametrize("trainer", ["gkd.gkd_trainer.GKD", "gold.gold_trainer.GOLD", "iw_opd.iw_opd_trainer.IWOPD"])
def test_trl_generalized_jsd(trainer: str, beta: float) -> None:
    """Theirs lacks T^2. Beta and the denominator, kept tokens, are ours; accumulated it is a count from outside."""
    module, _, name = trainer.rpartition(".")
    peer = getattr(trl(f"experimental.{module}"), f"{name}Trainer").generalized_jsd_loss
    student, teacher = (logits.reshape(3, 4, 9) for logits in batch(12, 9))
    labels = torch.tensor([[1, -100, 2, 3], [-100, -100, -100, -100], [4, 5, 6, 7]])
    keep = labels != -100
    values = jsd(student[keep] / T, teacher[keep] / T, beta=beta)
    options = {"labels": labels, "beta": beta, "temperature": T}
    torch.testing.assert_close(peer(student, teacher, **options), values.mean())
    torch.testing.assert_close(peer(student, teacher, **options, num_items_in_batch=70), values.sum() / 70)


@betas
def test_trl_chunked_divergence(beta: float) -> None:
    """Theirs lacks T^2 and is float32 throughout; it also gives the student's entropy. Beta is ours."""
    kernel = trl("kernels.chunked_divergence").ChunkedDivergenceFunction
    loss = trl("trainer.distillation_trainer")._chunked_divergence_loss
    (hidden, head), (theirs, their_head) = heads()
    leaves = hidden.requires_grad_(), head.requires_grad_()
    student, teacher = hidden @ head.T / T, theirs @ their_head.T / T
    values, entropy = kernel.apply(hidden, head, None, theirs, their_head, None, beta, T)
    ours = jsd(student, teacher, beta=beta)
    torch.testing.assert_close(values, ours, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy, torch.special.entr(student.softmax(-1)).sum(-1))
    slopes = (torch.autograd.grad(value.sum(), leaves, retain_graph=True) for value in (values, ours))
    for found, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    mask = (torch.arange(12) % 3 > 0).reshape(3, 4)
    shaped = hidden.reshape(3, 4, 5), theirs.reshape(3, 4, 8)
    mean, _, kept = loss(*shaped, head, their_head, mask, beta, temperature=T)
    assert kept == 8
    torch.testing.assert_close(mean, ours[mask.flatten()].mean(), rtol=1e-4, atol=1e-5)


@betas
@pytest.mark.parametrize("name", ["server_distillation.server", "async_distillation.async", "iw_opd.iw_opd"])
def test_trl_divergence_on_a_support(name: str, beta: float) -> None:
    """Theirs is a table of terms, not their sum. Cells outside the support are -inf on both sides here."""
    folder, _, short = name.partition(".")
    suffix = "trainer" if short == "iw_opd" else "distillation_trainer"
    peer = trl(f"experimental.{folder}.{short}_{suffix}")._jsd_divergence
    student, teacher = batch()
    support = torch.arange(11).expand(5, 11) % 4 > 0
    student, teacher = (s.masked_fill(~support, -torch.inf) for s in (student, teacher))
    terms = peer(student.log_softmax(-1), teacher.log_softmax(-1), beta, support)
    torch.testing.assert_close(terms.sum(-1), jsd(student, teacher, beta=beta))


@betas
@pytest.mark.parametrize("folder", ["sdpo", "sdft"])
def test_trl_self_distillation(folder: str, beta: float) -> None:
    """Their alpha is our beta, also in that its ends are the two KLs."""
    peer = trl(f"experimental.{folder}.loss_utils").compute_full_logit_self_distillation_loss
    student, teacher = batch()
    torch.testing.assert_close(peer(student, teacher, distillation_alpha=beta), jsd(student, teacher, beta=beta))


def test_trl_sampled_token() -> None:
    """No difference."""
    peer = trl("experimental.sdpo.loss_utils").compute_sampled_token_self_distillation_loss
    student, teacher = batch()
    student.requires_grad_()
    tokens = torch.tensor([0, 10, 3, 3, 7])
    theirs = peer(student[None], teacher[None], tokens[None], distillation_alpha=1.0)[0]
    ours = sampled_token(student, teacher, token_ids=tokens)
    torch.testing.assert_close(theirs, ours)
    torch.testing.assert_close(gradient(theirs, student), gradient(ours, student))


@betas
def test_liger_chunked_jsd(beta: float) -> None:
    """Theirs lacks T^2 and adds a cross-entropy at T = 1. Beta and the denominator, kept tokens, are ours."""
    peer = import_module("liger_kernel.chunked_loss.jsd_loss").LigerFusedLinearJSDLoss
    (hidden, head), (theirs, their_head) = heads()
    labels = torch.arange(12) % 9
    labels[::5] = -100
    keep = labels != -100
    leaves = hidden.requires_grad_(), head.requires_grad_()
    both = peer(beta=beta, temperature=T, compiled=False, chunk_size=5, return_soft_hard_loss=True)
    loss, soft, hard = both(hidden, head, theirs, their_head, labels)
    ours = jsd((hidden @ head.T)[keep] / T, (theirs @ their_head.T)[keep] / T, beta=beta).mean()
    labelled = cross_entropy((hidden @ head.T)[keep], labels[keep]).mean()
    torch.testing.assert_close(soft, ours)
    torch.testing.assert_close(hard, labelled)
    for found, expected in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(0.5 * ours + 0.5 * labelled, leaves), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_liger_chunked_cosine() -> None:
    """Theirs has a factor beta, and takes logits for vectors: a shift moves it, so it is a hidden distance here."""
    peer = import_module("liger_kernel.chunked_loss.cosine_similarity_loss").LigerFusedLinearCosineSimilarityLoss
    (hidden, head), (theirs, their_head) = heads()
    loss = peer(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.7, compiled=False)
    ours = 0.7 * cosine_distance(hidden @ head.T, theirs @ their_head.T).mean()
    torch.testing.assert_close(loss(hidden, head, theirs, their_head, torch.zeros(12).long()), ours)


def test_liger_jsd_kernel() -> None:
    """Theirs takes log-probabilities and gives the mean over rows. Triton's interpreter stands in for a GPU."""
    student, teacher = (logits.float() for logits in batch())
    script = """
import json, sys, torch
from liger_kernel.ops.jsd import LigerJSDFunction
betas, *sides = json.load(sys.stdin)
student, teacher = (torch.tensor(side) for side in sides)
found = []
for beta in betas:
    leaf = student.clone().requires_grad_()
    loss = LigerJSDFunction.apply(leaf.log_softmax(-1), teacher.log_softmax(-1), None, beta, -100)
    found.append((loss.item(), *(g.tolist() for g in torch.autograd.grad(loss, leaf))))
print(json.dumps(found))
"""
    given = json.dumps([BETAS, student.tolist(), teacher.tolist()])
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], input=given, capture_output=True, text=True, env=environment, check=True
    )
    student.requires_grad_()
    for beta, (loss, slope) in zip(BETAS, json.loads(done.stdout), strict=True):
        ours = jsd(student, teacher, beta=beta).mean()
        assert loss == pytest.approx(ours.item(), rel=1e-5)
        torch.testing.assert_close(torch.tensor(slope), gradient(ours, student), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "prepare"), [("KDLoss", lambda logits: logits), ("LogitStdKDLoss", standardise_logits)]
)
def test_torchdistill_kd(name: str, prepare: Callable[[Tensor], Tensor]) -> None:
    """No difference beside labels: alpha weighs the cross-entropy, beta T^2 KL. Without labels theirs lacks both."""
    student, teacher = batch()
    labels = torch.tensor([0, 10, 3, 3, 7])
    theirs = torchdistill(name, student, teacher, labels, temperature=T, alpha=0.3, beta=0.9)
    soft = T**2 * forward_kl(prepare(student) / T, prepare(teacher) / T).mean()
    torch.testing.assert_close(theirs, 0.3 * cross_entropy(student, labels).mean() + 0.9 * soft)


def test_torchdistill_skd_instance() -> None:
    """Theirs lacks T^2 in the mode `paper`."""
    student, teacher = batch()
    theirs = torchdistill("SKDInstanceLoss", student, teacher, temperature=T, mode="paper")
    torch.testing.assert_close(theirs, forward_kl(student / T, teacher / T).mean())


def test_torchdistill_dist() -> None:
    """Theirs multiplies by T^2, though a correlation has no scale, and counts constant lines as uncorrelated."""
    student, teacher = batch(scale=1.0)
    theirs = torchdistill("DISTLoss", student, teacher, beta=2.0, gamma=0.7, tau=T)
    torch.testing.assert_close(theirs, T**2 * dist(student / T, teacher / T, beta=2.0, gamma=0.7))


def test_dkd_of_the_authors() -> None:
    """No difference where the label is not saturated."""
    student, teacher = batch()
    student.requires_grad_()
    labels = torch.tensor([0, 10, 3, 3, 7])
    theirs = dkd_of_the_authors(student, teacher, labels, 1.0, 8.0, T)
    ours = T**2 * dkd(student / T, teacher / T, labels=labels).mean()
    torch.testing.assert_close(theirs, ours)
    torch.testing.assert_close(gradient(theirs, student), gradient(ours, student))
