"""Terms of language models that compare texts, not tokens: their denominators are texts, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import (
    AttentionRelationsSpec,
    CKASpec,
    ForwardKLSpec,
    HiddenSpec,
    RKDDistanceSpec,
    SimilarityPreservingSpec,
)
from attar.recipe.training import TrainingSpec
from attar.signals import look_inside
from attar.training.rows import Batch, LiveTeacher, TrainingRows
from attar.training.train import make_trainer
from attar.training.trainer import DistilTrainer
from tiny_language import tiny_llama
from training.test_language import ENCODED, TASK, TOKENIZER

KL = ForwardKLSpec(kind="forward_kl")
SPECS = {
    "pooled states": HiddenSpec(kind="hidden", pool="mean", distance="cosine"),
    "first states": HiddenSpec(kind="hidden", pool="first", distance="mse"),
    "attention": AttentionRelationsSpec(kind="attention_relations", heads=2),
    "distances": RKDDistanceSpec(kind="rkd_distance"),
    "similarity": SimilarityPreservingSpec(kind="similarity_preserving"),
    "cka": CKASpec(kind="cka"),
}


def models() -> list[Any]:
    return [tiny_llama(TOKENIZER, layers=2, seed=1).double(), tiny_llama(TOKENIZER).double()]


def trainer_of(where: Path, *specs: Any) -> DistilTrainer:
    student, teacher = models()
    batch = TASK.batch(ENCODED, [0], TOKENIZER)
    inside = [look_inside(model, batch) for model in (student, teacher)]
    terms = Terms(list(specs), problem="single_label", student=inside[0], teacher=inside[1], seed=0)
    rows = TrainingRows(ENCODED, TOKENIZER, live=LiveTeacher(teacher, ENCODED, TOKENIZER, terms.wanted_teacher))
    spec = TrainingSpec(batch_size=8, device="cpu", max_steps=1)
    return make_trainer(student, terms, TASK, rows, spec, where, key="k")


def stepped(trainer: DistilTrainer, *parts: list[int]) -> tuple[Tensor, dict[str, Tensor], dict[str, int]]:
    """Loss and gradients of a step of these micro-batches, and the step's counts, as the trainer makes them."""
    made = [trainer.micro_batch(Batch(np.array(rows), 0, number)) for number, rows in enumerate(parts)]
    samples, _ = trainer.get_batch_samples(iter(made), len(made), torch.device("cpu"))
    trainer.distil.zero_grad()
    total = torch.zeros(())
    for sample in samples:
        loss, _ = trainer.distil(**sample)
        loss.backward()
        total = total + loss.detach()
    gradients = {name: p.grad.clone() for name, p in trainer.distil.student.named_parameters() if p.grad is not None}
    return total, gradients, samples[0]["counts"]


@pytest.mark.parametrize("name", SPECS)
def test_texts_are_counted_for_what_compares_texts(tmp_path: Path, name: str) -> None:
    trainer = trainer_of(tmp_path, SPECS[name], KL)
    _, _, counts = stepped(trainer, [0, 3, 5], [1, 2])
    assert counts == {SPECS[name].kind: 5, "forward_kl": int(ENCODED.labels[[0, 3, 5, 1, 2]].sum())}
    assert counts["forward_kl"] > 10


def test_the_loss_of_pooled_states_is_their_mean_over_texts(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, SPECS["pooled states"])
    rows = [0, 3, 5, 1]
    loss, gradients, _ = stepped(trainer, rows)
    student, teacher = models()
    distances: list[Tensor] = []
    for row in rows:
        ids = torch.from_numpy(ENCODED.inputs["input_ids"][row])[None]
        ours, theirs = (one(ids, output_hidden_states=True).hidden_states[-1][0].mean(0) for one in (student, teacher))
        distances.append(1 - functional.cosine_similarity(ours, theirs.detach(), dim=0))
    whole = torch.stack(distances).mean()
    whole.backward()
    torch.testing.assert_close(loss.double(), whole.detach(), rtol=1e-6, atol=0)
    for key, parameter in student.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["pooled states", "first states", "attention"])
def test_micro_batches_make_one_batch(tmp_path: Path, name: str) -> None:
    trainer = trainer_of(tmp_path, SPECS[name])
    whole, ours, _ = stepped(trainer, [0, 3, 5, 1, 2])
    cut, theirs, _ = stepped(trainer, [0, 3, 5], [1, 2])
    torch.testing.assert_close(cut, whole, rtol=1e-6, atol=0)
    for key, gradient in ours.items():
        torch.testing.assert_close(theirs[key], gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["distances", "similarity", "cka"])
def test_what_relates_texts_is_the_mean_over_micro_batches_weighted_by_texts(tmp_path: Path, name: str) -> None:
    trainer = trainer_of(tmp_path, SPECS[name])
    cut, _, _ = stepped(trainer, [0, 3, 5], [1, 2, 7, 8])
    alone = [stepped(trainer, rows)[0] for rows in ([0, 3, 5], [1, 2, 7, 8])]
    torch.testing.assert_close(cut, (3 * alone[0] + 4 * alone[1]) / 7, rtol=1e-6, atol=0)
