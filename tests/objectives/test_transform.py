"""Logit standardisation against scipy's z-score and the authors' formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from attar.errors import TrainingError
from attar.objectives.transform import standardise_logits
from objectives.draws import batch
from objectives.oracles import response


def z_score_of_the_authors(logits: Tensor) -> Tensor:
    """Logit standardisation as the paper's authors compute it (arXiv:2403.01427)."""
    return (logits - logits.mean(-1, keepdim=True)) / (1e-7 + logits.std(-1, keepdim=True))


def test_standardise_logits() -> None:
    logits, _ = batch()
    np.testing.assert_allclose(standardise_logits(logits), response.standardise(logits.numpy()), rtol=1e-6)
    torch.testing.assert_close(standardise_logits(logits), z_score_of_the_authors(logits))
    torch.testing.assert_close(standardise_logits(3 * logits + 5), standardise_logits(logits))


def test_standardise_runs_over_finite_entries() -> None:
    logits, _ = batch()
    masked = logits.clone()
    masked[:, 4] = -torch.inf
    alive = [column for column in range(11) if column != 4]
    leaf = masked.requires_grad_()
    scored = standardise_logits(leaf)
    torch.testing.assert_close(scored[:, alive], standardise_logits(logits[:, alive]))
    assert (scored[:, 4] == -torch.inf).all()
    scored[:, alive].square().sum().backward()
    assert torch.isfinite(leaf.grad).all()


def test_standardise_of_a_constant_row_is_zero_with_a_tame_gradient() -> None:
    logits = torch.full((1, 5), 2.0, requires_grad=True)
    scored = standardise_logits(logits)
    (scored * torch.arange(5.0)).sum().backward()
    assert scored.tolist() == [[0.0] * 5]
    assert logits.grad.abs().max() <= 2.0


def test_standardise_refuses_two_outputs() -> None:
    with pytest.raises(TrainingError, match="rows of 2 logits"):
        standardise_logits(torch.zeros(3, 2))
