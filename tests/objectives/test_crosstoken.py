"""Between vocabularies: distances by rank and by name, projections, spans' probabilities, GOLD's traps."""

from __future__ import annotations

from types import SimpleNamespace

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attar.objectives.crosstoken import (
    Matched,
    TokenProjection,
    aligned,
    match_tokens,
    piece_bytes,
    project_tokens,
    projected_kl,
    span_kl,
    uld,
)
from attar.objectives.response import forward_kl
from objectives.oracles import sparse as oracle
from objectives.peers import piece

GOLD = "experimental/gold/gold_trainer.py"

quick = settings(max_examples=50, derandomize=True)


def batch(ours: int = 9, theirs: int = 7, rows: int = 5, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    sides = (scale * torch.randn(rows, width, dtype=torch.float64, generator=generator) for width in (ours, theirs))
    student, teacher = sides
    return student, teacher


def gradient(function, student: Tensor) -> Tensor:
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


@pytest.mark.parametrize("widths", [(9, 7), (7, 9), (8, 8), (1, 3)])
def test_uld_is_the_oracles(widths: tuple[int, int]) -> None:
    student, teacher = batch(*widths)
    np.testing.assert_allclose(uld(student, teacher), oracle.uld(student.numpy(), teacher.numpy()), rtol=1e-9)
    single = uld(student.float(), teacher.float())
    np.testing.assert_allclose(single, oracle.uld(student.numpy(), teacher.numpy()), rtol=1e-4)
    torch.autograd.gradcheck(lambda z: uld(z, teacher), student.requires_grad_())


@quick
@given(both=st.tuples(*[arrays.arrays(np.float64, (2, width), elements=st.floats(-20, 20)) for width in (8, 6)]))
def test_uld_of_the_top_is_a_bound_from_below(both: tuple[np.ndarray, np.ndarray]) -> None:
    student, teacher = map(torch.from_numpy, both)
    whole = uld(student, teacher)
    assert (whole <= 2 + 1e-12).all()
    before = torch.zeros(2, dtype=torch.float64)
    for top in range(9):
        value = uld(student, teacher, top=top)
        left = [side.softmax(-1).sort(-1, descending=True).values[:, top:].sum(-1) for side in (student, teacher)]
        assert (value >= before - 1e-12).all()
        assert (value <= whole + 1e-12).all()
        assert (whole <= value + 2 * torch.minimum(*left) + 1e-12).all()
        before = value
    torch.testing.assert_close(before, whole)


def test_uld_does_not_know_which_token_is_which() -> None:
    student, teacher = batch(7, 7)
    assert (uld(teacher.flip(-1), teacher) < 1e-15).all()
    ours = torch.cat([student, torch.full((5, 2), -torch.inf, dtype=torch.float64)], -1).requires_grad_()
    value = uld(ours, teacher)
    torch.testing.assert_close(value, uld(student, teacher))
    assert torch.isfinite(torch.autograd.grad(value.sum(), ours)[0]).all()


def gold(**options: object) -> object:
    config = {
        "uld_crossentropy_weight": 0.0,
        "uld_distillation_weight": 1.0,
        "uld_student_temperature": 1.0,
        "uld_teacher_temperature": 1.0,
        "uld_skip_student_eos": False,
        "uld_skip_teacher_eos": False,
        "use_extended_uld": True,
        "uld_token_merge_strategy": "bayesian",
        "beta": 0.0,
    }
    jsd = piece(GOLD, "GOLDTrainer.generalized_jsd_loss")
    trainer = SimpleNamespace(generalized_jsd_loss=jsd)
    tokenizers = {name: options.pop(name, None) for name in ("student_tokenizer", "teacher_tokenizer")}
    return piece(GOLD, "ULDLoss", GOLDTrainer=trainer)(SimpleNamespace(**config | options), **tokenizers)


def test_uld_agrees_with_trl_where_tokens_stand_alone() -> None:
    """GOLD gives a mean over spans (its logits shifted by one), and leaves out the temperature's factor."""
    student, teacher = batch()
    ids = torch.arange(6).unsqueeze(0)
    labels = torch.where(ids > 0, ids, -100)
    offsets = torch.tensor([[[0, 0], *([at, at + 1] for at in range(5))]])
    rows = [torch.cat([side, side[:1]]).unsqueeze(0) for side in (student, teacher)]  # the last one predicts nothing
    for heat in (1.0, 2.0):
        peer = gold(uld_student_temperature=heat, uld_teacher_temperature=heat)
        theirs = peer(*rows, labels, labels, ids, ids, offsets, offsets)
        torch.testing.assert_close(uld(student / heat, teacher / heat).mean(), theirs)


PAIRS = [(0, 3), (2, 1), (5, 0)]


def matched(pairs: list[tuple[int, int]] = PAIRS) -> Matched:
    return Matched(*torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(-1))


@pytest.mark.parametrize("pairs", [PAIRS, [], [(at, at) for at in range(7)]])
@pytest.mark.parametrize("share", [None, 0.0, 0.3, 1.0])
def test_aligned_is_the_oracles(pairs: list[tuple[int, int]], share: float | None) -> None:
    student, teacher = batch(7 if len(pairs) == 7 else 9, 7)
    value = aligned(student, teacher, matched=matched(pairs), share=share)
    expected = oracle.aligned(student.numpy(), teacher.numpy(), pairs, share)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-15)
    assert aligned(student[:0], teacher[:0], matched=matched(pairs), share=share).shape == (0,)
    torch.autograd.gradcheck(
        lambda z: aligned(z, teacher, matched=matched(pairs), share=share), student.requires_grad_()
    )


def test_aligned_ends_in_its_parts() -> None:
    student, teacher = batch(7, 7)
    every = matched([(at, at) for at in range(7)])
    torch.testing.assert_close(aligned(student, teacher, matched=every), forward_kl(student, teacher))
    torch.testing.assert_close(aligned(student, teacher, matched=matched([])), uld(student, teacher))
    torch.testing.assert_close(aligned(student, teacher, matched=matched([]), top=3), uld(student, teacher, top=3))
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        aligned(student, teacher, matched=every, share=1.5)


def hybrid(**options: object) -> object:
    """GOLD with our pairs as both sides' vocabularies, KL instead of its JSD of one half."""
    ours = {f"m{at}": pair[0] for at, pair in enumerate(PAIRS)}
    theirs = {f"m{at}": pair[1] for at, pair in enumerate(PAIRS)}
    sides = [SimpleNamespace(get_vocab=lambda names=names: names) for names in (ours, theirs)]
    return gold(uld_use_hybrid_loss=True, student_tokenizer=sides[0], teacher_tokenizer=sides[1], **options)


def rest_cell(student: Tensor, teacher: Tensor) -> Tensor:
    q = 1 - student.softmax(-1)[:, [0, 2, 5]].sum(-1)
    p = 1 - teacher.softmax(-1)[:, [3, 1, 0]].sum(-1)
    return p * (p / q).log()


@pytest.mark.parametrize("share", [None, 0.4])
def test_aligned_is_golds_hybrid_with_a_cell_for_the_rest(share: float | None) -> None:
    student, teacher = batch()
    weights = {} if share is None else {"uld_hybrid_matched_weight": share, "uld_hybrid_unmatched_weight": 1 - share}
    theirs = hybrid(**weights)._compute_hybrid_uld_loss(student.softmax(-1), teacher.softmax(-1))
    ours = aligned(student, teacher, matched=matched(), share=share).mean()
    weight = 3 / 7 if share is None else share
    torch.testing.assert_close(ours, theirs + weight * rest_cell(student, teacher).mean())


def test_trap_golds_matched_kl_goes_negative_and_does_not_rest_where_both_agree() -> None:
    _, teacher = batch(7, 7)
    peer = hybrid(uld_hybrid_matched_weight=1.0, uld_hybrid_unmatched_weight=0.0)
    twin = torch.empty_like(teacher)
    twin[:, [0, 2, 5, 1, 3, 4, 6]] = teacher[:, [3, 1, 0, 2, 4, 5, 6]]  # the pairs first

    def theirs(z: Tensor) -> Tensor:
        return peer._compute_hybrid_uld_loss(z.softmax(-1), teacher.softmax(-1))

    assert (aligned(twin, teacher, matched=matched()) < 1e-15).all()
    torch.testing.assert_close(theirs(twin), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)
    slope = gradient(theirs, twin)[:, [0, 2, 5]].sum(-1)
    assert (slope < -1e-3).all()
    crowded = twin.clone()
    crowded[:, [0, 2, 5]] += 1.0
    assert theirs(crowded) < 0
    ours = gradient(lambda z: aligned(z, teacher, matched=matched(), share=1.0), twin)
    assert ours.abs().max() < 1e-12


def test_match_tokens_by_bytes() -> None:
    byte_level = {"Ġthe": 5, "cat": 2, "<|end|>": 9, "Ã©": 4, "x": 1}
    pieces = {"▁the": 0, "cat": 7, "</s>": 3, "é": 6, "<0xE2>": 8}
    ours = {piece_bytes(name, "byte_level"): index for name, index in byte_level.items()}
    theirs = {piece_bytes(name, "sentencepiece"): index for name, index in pieces.items()}
    found = match_tokens(ours, theirs)
    assert list(zip(found.student_ids.tolist(), found.teacher_ids.tolist(), strict=True)) == [(2, 7), (4, 6), (5, 0)]
    assert len(match_tokens(byte_level, pieces).student_ids) == 1  # by strings, as GOLD: only "cat"
    assert match_tokens({"a": 0}, {"b": 0}).student_ids.shape == (0,)


def test_projected_kl_of_the_same_vocabulary_is_forward_kl() -> None:
    student, teacher = batch(7, 7)
    ids = torch.arange(7)
    same = TokenProjection(ids, ids, torch.ones(7))
    torch.testing.assert_close(projected_kl(student, teacher, projection=same), forward_kl(student, teacher))
    far = 400 * student.float()  # q underflows, its logarithm does not
    exact = forward_kl(far, teacher.float())
    torch.testing.assert_close(projected_kl(far, teacher.float(), projection=same), exact)


def test_projected_kl_is_the_oracles() -> None:
    """Student tokens 0..8 on teacher tokens 0..6; nothing leads to teacher token 6."""
    student, teacher = batch()
    matrix = np.zeros((9, 7))
    matrix[[0, 1, 2, 3, 4, 5], [2, 1, 0, 3, 4, 5]] = 1
    matrix[6, :3] = matrix[7, 2:5] = np.array([100, 10, 1]) / 111
    matrix[8, [1, 5]] = 0.25, 0.75
    rows, columns = matrix.nonzero()
    projection = TokenProjection(torch.tensor(rows), torch.tensor(columns), torch.tensor(matrix[rows, columns]))
    expected = oracle.projected_kl(student.numpy(), teacher.numpy(), matrix)
    np.testing.assert_allclose(projected_kl(student, teacher, projection=projection), expected, rtol=1e-9)
    agreeing = torch.from_numpy(np.log(torch.softmax(student, -1).numpy() @ matrix[:, :6]))
    agreeing = torch.cat([agreeing, teacher[:, 6:]], -1)
    value = projected_kl(student, agreeing, projection=projection)
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-12)
    leaf = student.clone().requires_grad_()
    torch.autograd.gradcheck(lambda z: projected_kl(z, teacher, projection=projection), leaf)
    masked = student.clone()
    masked[:, [0, 7]] = -torch.inf
    leaf = masked.requires_grad_()
    value = projected_kl(leaf, teacher, projection=projection)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(leaf.grad).all()
    assert projected_kl(student[:0], teacher[:0], projection=projection).shape == (0,)


def test_project_tokens_by_string_rules() -> None:
    student = {"Hundreds": 0, "2": 1, "0": 2, "201": 3, "cat": 4, "the": 5}
    teacher = {"2": 0, "0": 1, "1": 2, "Hund": 3, "reds": 4, "thecat": 5}
    parts = {"Hundreds": [3, 4], "201": [0, 1, 2], "cat": [2], "the": [1]}
    back = {"1": [1], "Hund": [0], "reds": [0], "thecat": [5, 4]}
    found = project_tokens(student, teacher, to_teacher=parts.__getitem__, to_student=back.__getitem__)
    dense = torch.zeros(6, 6)
    dense[found.student_ids, found.teacher_ids] = found.weights
    torch.testing.assert_close(dense.sum(-1), torch.ones(6))
    assert dense[1].tolist() == [1, 0, 0, 0, 0, 0]  # the same text: there alone, though "1" is made of it too
    torch.testing.assert_close(dense[3], torch.tensor([100.0, 10.0, 1.0, 0.0, 0.0, 0.0]) / 111)
    torch.testing.assert_close(dense[0, 3:5], torch.tensor([10 / 11 + 1, 1 / 11 + 1]) / 3)
    torch.testing.assert_close(dense[4, [2, 5]], torch.tensor([11.0, 1.0]) / 12)
    long = project_tokens({"abcde": 0}, {}, to_teacher=lambda _: [0, 1, 2, 3, 4], to_student=lambda _: [])
    assert long.teacher_ids.tolist() == [0, 1, 2, 3]


def test_span_kl_is_the_oracles() -> None:
    student, _ = batch(rows=3)
    token_ids = torch.tensor([0, 4, 8])
    others = torch.tensor([0.0, -0.3, -2.0], dtype=torch.float64)
    target = torch.tensor([-0.1, -1.0, -7.0], dtype=torch.float64)
    value = span_kl(student, target, token_ids=token_ids, others=others)
    q = student.softmax(-1).gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    for row in range(3):
        expected = oracle.span_kl([float(q[row]), float(others[row].exp())], float(target[row].exp()))
        np.testing.assert_allclose(value[row], expected, rtol=1e-9)
    same = others + q.log()
    agreed = span_kl(student, same, token_ids=token_ids, others=others)
    torch.testing.assert_close(agreed, torch.zeros_like(agreed), rtol=0, atol=1e-12)
    certain = span_kl(student, torch.zeros(3, dtype=torch.float64), token_ids=token_ids, others=others)
    torch.testing.assert_close(certain, -same)  # the span's negative log-likelihood


def test_gradients_of_a_spans_rows_are_the_whole_spans() -> None:
    rows, _ = batch(rows=3)
    token_ids = torch.tensor([1, 5, 2])
    target = torch.tensor(-2.0, dtype=torch.float64)

    def whole(z: Tensor) -> Tensor:
        held = z.log_softmax(-1).gather(-1, token_ids.unsqueeze(-1)).sum()
        gap = target.exp() * (target - held)
        return gap + (1 - target.exp()) * ((1 - target.exp()).log() - (1 - held.exp()).log())

    each = rows.log_softmax(-1).gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    others = each.sum() - each
    got = gradient(lambda z: span_kl(z, target.expand(3), token_ids=token_ids, others=others), rows)
    torch.testing.assert_close(got, gradient(whole, rows))
    values = span_kl(rows, target.expand(3), token_ids=token_ids, others=others)
    torch.testing.assert_close(values, whole(rows).expand(3))


@pytest.mark.parametrize("depth", [10.0, 30.0, 80.0])
def test_a_sure_student_keeps_its_digits_in_float32(depth: float) -> None:
    """1 - Q is far below the last place of Q; P is .9."""
    student = torch.tensor([[depth, 0.0, -1.0]])
    given = {"token_ids": torch.tensor([0]), "others": torch.zeros(1)}
    target = torch.tensor([0.9]).log()
    value = span_kl(student, target, **given)
    exact = span_kl(student.double(), target.double(), token_ids=given["token_ids"], others=given["others"].double())
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)
    slope = gradient(lambda z: span_kl(z, target, **given), student)
    held = student.double().softmax(-1)[0, 0]
    torch.testing.assert_close(slope[0, 0].double(), held - target.double().exp()[0], rtol=1e-6, atol=0)


def test_trap_golds_merged_rows_do_not_rest_where_both_agree() -> None:
    """One row times the probabilities of the span's other tokens: its KL keeps pushing those up, without an end."""
    rows, _ = batch(rows=2)
    peer = gold()
    token_ids = torch.tensor([1, 5])

    def merged(z: Tensor) -> Tensor:
        return peer._merge_probabilities_with_alignment_groups(z.softmax(-1), [[0, 1]], token_ids.tolist())

    joint = merged(rows)[0, 5]
    own = rows.log_softmax(-1).gather(-1, token_ids.unsqueeze(-1)).sum()
    torch.testing.assert_close(joint.log(), own)  # at the span's last token it is the span's probability

    target = merged(rows).detach()
    slope = gradient(lambda z: (target * (target.log() - merged(z).log())).sum(), rows)
    assert slope[0, 1] < -1e-3  # the first token's row, though both sides agree
    others = rows.log_softmax(-1).gather(-1, token_ids.unsqueeze(-1)).squeeze(-1).flip(0)
    ours = gradient(lambda z: span_kl(z, own.expand(2), token_ids=token_ids, others=others), rows)
    assert ours.abs().max() < 1e-12
