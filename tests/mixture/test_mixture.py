"""Several teachers' logits as one teacher's: against float64 arithmetic, laws, and block by block as all at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, logsumexp, softmax
from torch import Tensor

from attar.known import Known
from attar.logits import Projection
from attar.mixture import Mixture, blocks_of, combined, dense, in_tokens_of, outputs_of, rows_of, width_of
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import Share, Term
from attar.objectives.response import forward_kl

ROWS, OUTPUTS, WIDTH = 11, 7, 5
WEIGHTS = (0.5, 0.2, 0.3)


def drawn(seed: int, rows: int = ROWS, outputs: int = OUTPUTS) -> Tensor:
    return 2 * torch.randn(rows, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads(*outputs: int, rows: int = ROWS) -> tuple[Projection, ...]:
    return tuple(
        Projection(drawn(n, rows, WIDTH), drawn(9 + n, width, WIDTH), drawn(20 + n, 1, width)[0], 0.5, 3.0)
        for n, width in enumerate(outputs)
    )


def test_probabilities_are_averaged_at_temperature_one() -> None:
    each = [drawn(n) for n in range(3)]
    mean = sum(weight * softmax(one.numpy(), axis=1) for weight, one in zip(WEIGHTS, each, strict=True))
    found = combined(each, WEIGHTS, "probabilities", "single_label")
    np.testing.assert_allclose(found.exp().numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(logsumexp(found.numpy(), axis=1), 0.0, atol=1e-12)


def test_averaged_logits_are_the_normalised_geometric_mean() -> None:
    each = [drawn(n) for n in range(3)]
    product = np.prod([softmax(one.numpy(), axis=1) ** w for w, one in zip(WEIGHTS, each, strict=True)], axis=0)
    found = combined(each, WEIGHTS, "logits", "single_label")
    np.testing.assert_allclose(softmax(found.numpy(), axis=1), product / product.sum(1, keepdims=True), rtol=1e-12)


def test_cells_of_several_labels_are_mixed_as_chances_and_numbers_are_averaged() -> None:
    each = [drawn(n) for n in range(3)]
    chance = sum(weight * expit(one.numpy()) for weight, one in zip(WEIGHTS, each, strict=True))
    found = combined(each, WEIGHTS, "probabilities", "multi_label")
    np.testing.assert_allclose(expit(found.numpy()), chance, rtol=1e-12)
    mean = sum(weight * one.numpy() for weight, one in zip(WEIGHTS, each, strict=True))
    for combine in ("probabilities", "logits"):
        np.testing.assert_allclose(combined(each, WEIGHTS, combine, "regression").numpy(), mean, rtol=1e-12)


def test_large_logits_and_tokens_that_never_come_stay_finite_or_as_they_are() -> None:
    one, other = drawn(0).float() * 1e4, drawn(1).float()
    other[:, 2] = one[:, 2] = -torch.inf
    other[0, 3] = -torch.inf
    for combine in ("probabilities", "logits"):
        found = combined([one, other], (0.5, 0.5), combine, "single_label")
        assert not found.isnan().any()
        assert (found[:, 2] == -torch.inf).all()
    assert combined([one, other], (0.5, 0.5), "probabilities", "single_label")[0, 3] > -torch.inf


@settings(max_examples=30, derandomize=True)
@given(
    st.integers(0, 99), st.permutations(range(3)), st.sampled_from(["probabilities", "logits"]),
    st.sampled_from(["single_label", "multi_label", "regression"]), st.floats(0.01, 0.99),
)  # fmt: skip
def test_laws(seed: int, order: list[int], combine: Any, problem: Any, share: float) -> None:
    """The same in any order; teachers that agree are one; between two; shifts of a row's logits are nothing."""
    each = [drawn(seed + n) for n in range(3)]
    told = combined(each, WEIGHTS, combine, problem)
    moved = combined([each[n] for n in order], [WEIGHTS[n] for n in order], combine, problem)
    torch.testing.assert_close(moved, told)
    agreed = combined([each[0]] * 3, WEIGHTS, combine, problem)
    if problem == "single_label":
        shifted = combined([one + n for n, one in enumerate(each)], WEIGHTS, combine, problem)
        torch.testing.assert_close(shifted.log_softmax(-1), told.log_softmax(-1))
        torch.testing.assert_close(agreed.log_softmax(-1), each[0].log_softmax(-1))
        if combine == "probabilities":
            two = combined(each[:2], (share, 1 - share), combine, problem).exp()
            sides = torch.stack([one.softmax(-1) for one in each[:2]])
            assert (two >= sides.amin(0) - 1e-12).all()
            assert (two <= sides.amax(0) + 1e-12).all()
    else:
        torch.testing.assert_close(agreed, each[0])


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_blocks_of_a_mixture_are_those_of_all_its_logits(combine: Any) -> None:
    parts = heads(OUTPUTS, OUTPUTS + 2, OUTPUTS)
    mixture = Mixture(parts, WEIGHTS, combine)
    whole = combined([part.dense()[:, :OUTPUTS] for part in parts], WEIGHTS, combine, "single_label")
    assert (len(mixture), width_of(mixture)) == (ROWS, OUTPUTS)
    torch.testing.assert_close(dense(mixture), whole)
    blocks = blocks_of(mixture)
    torch.testing.assert_close(torch.cat([blocks.block(slice(0, 4)), blocks.block(slice(4, ROWS))]), whole)
    some = torch.tensor([3, 3, 0])
    torch.testing.assert_close(blocks.block(some), whole[some])
    torch.testing.assert_close(dense(rows_of(mixture, some)), whole[some])
    kept = torch.tensor([4, 0])
    few = [part.dense()[:, kept] for part in parts]
    torch.testing.assert_close(dense(outputs_of(mixture, kept)), combined(few, WEIGHTS, combine, "single_label"))


@pytest.mark.parametrize("mixed", [False, True])
def test_in_a_student_s_tokens_what_it_lacks_goes_to_the_first_it_spells_that_with(mixed: bool) -> None:
    """Against float64 numpy: probabilities of the teacher's tokens summed by the student's they begin with."""
    parts = heads(OUTPUTS, OUTPUTS, OUTPUTS)
    told = Mixture(parts, WEIGHTS) if mixed else parts[0]
    known = Known(torch.tensor([4, 0, 2]), others=torch.tensor([1, 6, 5]), starts=torch.tensor([2, 0, 2]))
    p = softmax(dense(told).numpy(), axis=1)
    sums = np.stack([p[:, 4] + p[:, 6], p[:, 0], p[:, 2] + p[:, 1] + p[:, 5]], axis=1)
    regrouped = in_tokens_of(told, known)
    assert (len(regrouped), width_of(regrouped)) == (ROWS, 3)
    np.testing.assert_allclose(np.exp(dense(regrouped).numpy()), sums, rtol=1e-12)
    some = torch.tensor([3, 3, 0])
    np.testing.assert_allclose(np.exp(dense(rows_of(regrouped, some)).numpy()), sums[some], rtol=1e-12)
    blocks = blocks_of(regrouped)
    np.testing.assert_allclose(np.exp(blocks.block(slice(2, 5)).numpy()), sums[2:5], rtol=1e-12)
    assert blocks.block(slice(0, 0)).shape == (0, 3)
    cut = in_tokens_of(told, Known(torch.tensor([4, 0])))
    torch.testing.assert_close(dense(cut), dense(outputs_of(told, torch.tensor([4, 0]))))


def test_routed_rows_are_the_words_of_their_own_model() -> None:
    route = torch.tensor([1, 0, 0, 1, 2, 0, 1])
    places = torch.tensor([0, 0, 1, 1, 0, 2, 2])
    parts = (heads(OUTPUTS, rows=3)[0], heads(OUTPUTS, OUTPUTS + 1, rows=3)[1], heads(4, 4, OUTPUTS, rows=1)[2])
    mixture = Mixture(parts, route=route, places=places)
    whole = torch.stack([parts[r].dense()[p, :OUTPUTS] for r, p in zip(route.tolist(), places.tolist(), strict=True)])
    assert len(mixture) == 7
    same = partial(torch.testing.assert_close, rtol=0, atol=1e-14)  # products of another shape may sum in another order
    same(dense(mixture), whole)
    some = torch.tensor([4, 2, 2])
    same(dense(rows_of(mixture, some)), whole[some])
    same(blocks_of(mixture).block(slice(2, 6)), whole[2:6])
    same(dense(outputs_of(mixture, torch.tensor([2, 1]))), whole[:, [2, 1]])


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_loss_on_a_mixture_tempers_the_log_of_the_mean(chunk: int | None) -> None:
    """Value and gradient against float64 numpy: the target is (sum of w p) to the power 1/T, normalised."""
    student, parts, temperature = drawn(5).requires_grad_(), heads(OUTPUTS, OUTPUTS, OUTPUTS), 2.0
    term = Term("forward_kl", forward_kl, temperature=temperature, temperature_power=2)
    reduced = reduce_rows(student, [Share(term, Mixture(parts, WEIGHTS), None, ROWS)], chunk_rows=chunk)
    reduced.total.backward()
    mean = sum(w * softmax(part.dense().numpy(), axis=1) for w, part in zip(WEIGHTS, parts, strict=True))
    p = mean ** (1 / temperature)
    p /= p.sum(1, keepdims=True)
    log_q = log_softmax(student.detach().numpy() / temperature, axis=1)
    assert float(reduced.total.detach()) == pytest.approx(
        temperature**2 * (p * (np.log(p) - log_q)).sum() / ROWS, rel=1e-10
    )
    expected = temperature * (np.exp(log_q) - p) / ROWS
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=1e-8, atol=1e-12)
