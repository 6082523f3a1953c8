"""Objectives on signals of real, tiny models: padding is nothing, the teacher learns nothing, images have no mask."""

from __future__ import annotations

import pytest
import torch

from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import ForwardKLSpec, HardLabelsSpec, HiddenSpec
from attar.signals import Inside, ask
from tiny import tiny_bert, tiny_image_model, tiny_tokenizer

TEXTS = ["a rose is a rose", "oil", "distilled from petals of roses"]
LABELS = torch.tensor([0, -100, 1])


@pytest.mark.parametrize("pool", ["none", "mean", "first"])
def test_padding_does_not_matter_and_the_teacher_learns_nothing(pool: str) -> None:
    tokenizer = tiny_tokenizer(TEXTS)
    student = tiny_bert(tokenizer, ["a", "b"], hidden=16, layers=2, seed=1)
    teacher = tiny_bert(tokenizer, ["a", "b"], hidden=32, layers=3, seed=2)
    terms = Terms(
        [
            ForwardKLSpec(kind="forward_kl", temperature=2.0),
            HardLabelsSpec(kind="hard_labels"),
            HiddenSpec(kind="hidden", layers="uniform", pool=pool),
        ],
        problem="single_label",
        student=Inside(dict.fromkeys(range(3), 16)),
        teacher=Inside(dict.fromkeys(range(4), 32)),
        seed=0,
    )
    losses = []
    for padding in ({"padding": True}, {"padding": "max_length", "max_length": 24}):
        inputs = dict(tokenizer(TEXTS, return_tensors="pt", **padding))
        counts = terms.kept(LABELS, len(TEXTS), inputs["attention_mask"])
        ours, theirs = ask(student, inputs, terms.wanted_student), ask(teacher, inputs, terms.wanted_teacher)
        losses.append(terms(ours, theirs, LABELS, counts))
    torch.testing.assert_close(losses[1].total, losses[0].total)
    torch.testing.assert_close(losses[1].terms, losses[0].terms)
    losses[0].total.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in terms.parameters())
    assert student.classifier.weight.grad is not None


def test_every_pixel_of_an_image_counts() -> None:
    model = tiny_image_model(["a", "b"], "vit", hidden=16, layers=2)
    images = torch.rand(4, 3, 8, 8)
    terms = Terms(
        [HiddenSpec(kind="hidden", pool="none", distance="mse")],
        problem="single_label",
        student=Inside(dict.fromkeys(range(3), 16)),
        teacher=Inside(dict.fromkeys(range(3), 16)),
        seed=0,
    )
    ours = ask(model, {"pixel_values": images}, terms.wanted_student)
    theirs = ask(model, {"pixel_values": images.flip(0)}, terms.wanted_teacher)
    counts = terms.kept(None, 4, None)
    states = [next(iter(signals.hidden.values())) for signals in (ours, theirs)]
    torch.testing.assert_close(terms(ours, theirs, None, counts).total, torch.nn.functional.mse_loss(*states))
