from __future__ import annotations

import pytest
import torch
from torch import nn

from attar.precision import full_precision_heads
from attar.recipe.objectives import ForwardKLSpec, HardLabelsSpec
from attar.signals import Wanted
from attar.training.distil import Distil
from attar.training.rows import LiveTeacher
from tiny import tiny_bert
from training.parts import LABELS, make_terms, student, text_task


def view(rows: int = 8) -> dict[str, torch.Tensor]:
    task, tokenizer, encoded = text_task()
    return task.batch(encoded, range(rows), tokenizer)


def live(dropout: float = 0.5) -> LiveTeacher:
    _, tokenizer, encoded = text_task()
    model = tiny_bert(tokenizer, LABELS, seed=5)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = dropout
    return LiveTeacher(model, encoded, tokenizer, Wanted())


def test_the_live_teacher_stays_frozen_and_outside() -> None:
    teacher = live()
    distil = Distil(student(), make_terms(ForwardKLSpec(kind="forward_kl")), teacher)
    inputs = {"inputs": view(), "labels": None, "counts": {"forward_kl": 8}, "view": view()}
    first = distil.train()(**inputs)[1]["forward_kl"]
    teacher.model.train()
    loss, terms = distil(**inputs)
    loss.backward()
    assert not any(part.training for part in teacher.model.modules())
    assert torch.equal(first, terms["forward_kl"]), "dropout of the teacher is off"
    assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())
    assert not any("teacher" in name or "live" in name for name in distil.state_dict())
    assert len(list(distil.parameters())) == len(list(student().parameters()))
    assert any(p.grad is not None for p in distil.student.parameters())


def test_mixup_is_the_cross_entropy_of_the_soft_target() -> None:
    terms = make_terms(HardLabelsSpec(kind="hard_labels"), ForwardKLSpec(kind="forward_kl"))
    distil, share = Distil(student().double(), terms), 0.3
    labels, partners = torch.arange(8) % 3, (torch.arange(8) + 1) % 3
    signals = {"logits": torch.randn(8, 3, dtype=torch.float64)}
    counts = {"hard_labels": 8, "forward_kl": 8}
    loss, values = distil(view(), labels, counts, signals=signals, partner_labels=partners, share=share)
    logits = distil.student(**view()).logits
    target = share * nn.functional.one_hot(labels, 3) + (1 - share) * nn.functional.one_hot(partners, 3)
    soft = nn.functional.cross_entropy(logits, target.double())
    divergence = nn.functional.kl_div(logits.log_softmax(-1), signals["logits"].softmax(-1), reduction="batchmean")
    torch.testing.assert_close(values["hard_labels"], soft.detach())
    torch.testing.assert_close(values["forward_kl"], divergence.detach())
    torch.testing.assert_close(loss, soft + divergence)


@pytest.mark.parametrize("full", [True, False])
def test_heads_write_float32_under_autocast(full: bool) -> None:
    model = student()
    with full_precision_heads([model] if full else [], len(LABELS)), torch.autocast("cpu", torch.bfloat16):
        logits = model(**view()).logits
    assert logits.dtype == (torch.float32 if full else torch.bfloat16)
    assert not any("forward" in part.__dict__ for part in model.modules())
    with torch.autocast("cpu", torch.bfloat16):
        assert model(**view()).logits.dtype == torch.bfloat16
