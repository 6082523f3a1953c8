"""Objectives on labels against the float64 oracle and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attar.errors import TrainingError
from attar.objectives.supervised import binary_cross_entropy, cross_entropy, squared_error
from objectives.draws import batch
from objectives.oracles import supervised


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing: float) -> None:
    logits, _ = batch()
    labels = torch.tensor([0, 10, 3, 3, 7])
    value = cross_entropy(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(value, supervised.cross_entropy(logits.numpy(), labels.numpy(), smoothing), rtol=1e-9)
    torch.testing.assert_close(
        value, functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy(smoothing: float) -> None:
    logits = batch()[0][0]
    labels = torch.linspace(0, 1, 11, dtype=torch.float64)
    value = binary_cross_entropy(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(
        value, supervised.binary_cross_entropy(logits.numpy(), labels.numpy(), smoothing), rtol=1e-9
    )
    if not smoothing:
        peer = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        torch.testing.assert_close(value, peer)
        two = cross_two_classes(logits, labels)
        torch.testing.assert_close(value, two)


def cross_two_classes(logits: Tensor, labels: Tensor) -> Tensor:
    rows = 0.5 * torch.stack((logits, -logits), -1)
    return functional.cross_entropy(rows, torch.stack((labels, 1 - labels), -1), reduction="none")


def test_squared_error() -> None:
    assert squared_error(torch.tensor([1.0, -2.0]), torch.tensor([3.0, -2.0])).tolist() == [4.0, 0.0]


@pytest.mark.parametrize("label", [-1, -100, 11])
def test_label_out_of_range_is_named(label: int) -> None:
    with pytest.raises(TrainingError, match=rf"label {label} of labelled row 1 .* 0\.\.10"):
        cross_entropy(batch(2)[0], torch.tensor([0, label]))
