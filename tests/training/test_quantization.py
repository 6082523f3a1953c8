"""Quantization-aware training: rounded while it learns, plain where it is saved, and resumed to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from attar.recipe.quantization import QuantizationSpec
from attar.signals import Wanted, ask
from attar.training.distil import Distil
from attar.training.rounding import Rounding
from training.parts import fit, make_terms, same_bits, spec, student, text_task, training_rows

AWARE = QuantizationSpec(precision="int8")


def rounding(model: nn.Module, start: float = 0.0) -> Rounding:
    return Rounding(model, QuantizationSpec(precision="int8", start=start), language=False)


def test_what_is_saved_is_plain_and_rounded(tmp_path: Path) -> None:
    model, before = student(), student().state_dict()
    facts, weights = fit(tmp_path, spec(quantization=AWARE), model, evaluate=quality)
    assert facts.quantization is not None
    assert (facts.quantization.precision, facts.quantization.activations) == ("int8", "row")
    assert {name for name in weights if not name.startswith("terms.")} == before.keys()
    assert all(type(p) is nn.Parameter for p in model.parameters())
    once = {name: p.clone() for name, p in model.state_dict().items()}
    rounding(model).settle(model)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, once[name], rtol=1e-5, atol=1e-6)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    assert facts.quantization.numbers == sum(p.numel() for p in matrices)
    assert all(len(row.unique()) <= 256 for p in matrices for row in p)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_it_is_resumed_to_the_bit(tmp_path: Path, keep: str) -> None:
    training = spec(quantization=QuantizationSpec(precision="int8", start=0.3), evaluations=5, keep=keep)
    _, whole = fit(tmp_path / "whole", training, student(dropout=0.1), evaluate=quality)
    calls = iter(range(100))

    def stopped(model: nn.Module) -> float:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return quality(model)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "twice", training, student(dropout=0.1), evaluate=stopped)
    assert any((tmp_path / "twice").glob("checkpoint-*"))
    _, again = fit(tmp_path / "twice", training, student(dropout=0.1), evaluate=quality)
    assert same_bits(again, whole)


def quality(model: nn.Module) -> float:
    """Deterministic, and not monotonous over the training."""
    return float(sum(p.detach().sum() for p in model.parameters())) % 1.0


def test_numbers_are_rounded_from_the_start_that_is_given_and_always_for_validation() -> None:
    model = student()
    task, tokenizer, encoded = text_task()
    inputs = task.batch(encoded, range(4), tokenizer)
    distil = Distil(model, make_terms(), None, rounding(model, 0.5))
    rows = training_rows()
    assert rows.signals is not None
    signals = rows.signals.read(torch.arange(4).numpy())
    known = {"logits": signals.logits, "hidden": signals.hidden}
    labels = torch.from_numpy(encoded.labels[:4])
    kept = distil.terms.kept(labels, 4, inputs["attention_mask"], None)
    counts = {name: float(count) for name, count in kept.items()}

    def loss(progress: float) -> float:
        return float(distil(inputs, labels, counts, known, progress=progress)[0].detach())

    plain = float(Distil(model, distil.terms)(inputs, labels, counts, known)[0].detach())
    assert loss(0.0) == loss(0.49) == plain
    assert loss(0.5) == loss(1.0) != plain
    logits = distil.as_exported(model, lambda one: ask(one, inputs, Wanted()).dense_logits)
    with torch.no_grad():
        assert not torch.equal(logits, model(**inputs).logits)
    assert all(type(p) is nn.Parameter for p in model.parameters())


def test_the_gradient_is_that_of_the_rounded_model() -> None:
    """By hand, in float64: a linear layer's gradient at its rounded weights and inputs is given to its own weights."""
    random = torch.Generator().manual_seed(0)
    layer = nn.Linear(6, 4).double()
    inputs = torch.randn(5, 6, generator=random, dtype=torch.float64).requires_grad_()
    slope = torch.randn(5, 4, generator=random, dtype=torch.float64)
    aware = rounding(layer)
    (aware.apply(layer, lambda one: one(inputs)) * slope).sum().backward()
    weight, seen = layer.weight.detach().clone(), inputs.detach().clone()
    for values, rows in ((weight, weight), (seen, seen)):
        low, high = rows.amin(1, keepdim=True).clamp(max=0), rows.amax(1, keepdim=True).clamp(min=0)
        scale = (high - low) / 255
        zero = (-low / scale).round()
        values.copy_((((rows / scale).round() + zero).clamp(0, 255) - zero) * scale)
    assert layer.weight.grad is not None
    assert inputs.grad is not None
    torch.testing.assert_close(layer.weight.grad, slope.T @ seen, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inputs.grad, slope @ weight, rtol=1e-12, atol=1e-12)
