"""Lists and draws of tokens, written and read: exact ids, bounded weights, distributions, no bias, any run."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attar.objectives.response import forward_kl
from attar.objectives.sparse import sample_targets, sampled_kl, sparse_kl, top_k, top_mass
from attar.objectives.threshold_sampling import threshold_targets, threshold_targets_at
from attar.teachers.log_levels import DEEPEST, steps_of
from attar.teachers.token_codec import (
    Draws,
    Lists,
    faults,
    pack_draws,
    pack_lists,
    unpack_draws,
    unpack_lists,
)
from teachers.token_oracle import read_all

quick = settings(max_examples=40, derandomize=True)


def whole(packed) -> tuple[np.ndarray, np.ndarray]:
    return np.array([0]), np.array([len(packed["counts"])])


def as_lists(listed) -> Lists:
    return Lists(*(part.numpy() for part in (listed.token_ids, listed.log_probs, listed.tail)))


def as_draws(sampled) -> Draws:
    return Draws(*(part.numpy() for part in (sampled.token_ids, sampled.log_probs, sampled.weights)))


def torches(some) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(part) for part in some)


def entries(token_ids: np.ndarray, *values: np.ndarray) -> list[list[tuple[float, ...]]]:
    """Of each token its entries, ascending by id, padding left out."""
    rows = [zip(ids, *columns, strict=True) for ids, *columns in zip(token_ids, *values, strict=True)]
    return [sorted(tuple(float(x) for x in entry) for entry in row if entry[0] != -1) for row in rows]


@st.composite
def teachers(draw) -> Lists:
    """Lists of a few tokens: vocabularies up to 2^17, ties, sure tokens, impossible ones, all but one listed, none."""
    vocabulary = draw(st.sampled_from([2, 3, 7, 60, 1000, 49_152, 1 << 17]))
    shape = draw(st.sampled_from(["smooth", "ties", "sure", "impossible", "steep"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    rows = []
    for k in draw(st.lists(st.integers(0, min(vocabulary - 1, 40)), min_size=1, max_size=5)):
        logits = rng.normal(size=k + 1) * {"ties": 1.4, "steep": 30.0}.get(shape, 3.0)
        logits = np.rint(logits) if shape == "ties" else logits
        if shape == "sure":
            logits[:] = np.where(np.arange(k + 1) == rng.integers(k + 1), 0.0, -np.inf)
        if shape == "impossible":
            logits[rng.random(k + 1) < 0.4] = -np.inf
            logits[rng.integers(k + 1)] = 0.0
        rows.append((rng.choice(vocabulary, k, replace=False), logits - np.logaddexp.reduce(logits)))
    longest = max(len(ids) for ids, _ in rows)
    token_ids = np.array([np.pad(ids, (0, longest - len(ids)), constant_values=-1) for ids, _ in rows], dtype=np.int64)
    log_probs = [np.pad(logs[:-1], (0, longest + 1 - len(logs)), constant_values=-np.inf) for _, logs in rows]
    tail = np.array([logs[-1] for _, logs in rows], dtype=np.float32)
    return Lists(token_ids, np.array(log_probs, dtype=np.float32), tail)


@quick
@given(lists=teachers(), bits=st.integers(2, 8))
def test_ids_are_exact_and_log_probs_within_the_steps(lists: Lists, bits: int) -> None:
    packed = pack_lists(lists, bits=bits)
    assert faults(packed) is None
    found = unpack_lists(packed, *whole(packed))
    steps, oracle = steps_of(packed["steps"]).astype(np.float64), read_all(packed)
    possible = np.where(lists.log_probs > -np.inf, lists.token_ids, -1)
    rows = zip(entries(possible, lists.log_probs), entries(found.token_ids, found.log_probs), strict=True)
    for token, (before, after) in enumerate(rows):
        assert [entry[0] for entry in after] == [entry[0] for entry in before] == oracle[token].ids
        given_ = np.array([lists.tail[token], *(entry[1] for entry in before)], dtype=np.float64)
        read = np.array([found.tail[token], *(entry[1] for entry in after)], dtype=np.float64)
        depths = np.array([oracle[token].shared, *oracle[token].own])
        assert math.isclose(np.exp(read).sum(), 1.0, abs_tol=2e-6)
        assert (np.isinf(read) == np.isinf(depths)).all()
        assert (np.isinf(read) == np.isinf(given_)).all(), "nothing possible becomes impossible"
        there = given_.max() - given_ <= DEEPEST
        np.testing.assert_allclose(read[there], -depths[there] - np.log(np.exp(-depths).sum()), atol=1e-5)
        step = steps[token] * (1 + 1e-5) + 1e-5
        given_, read, top = given_[there], read[there], given_.max()
        assert (np.abs(top - given_ - depths[there]) <= step / 2).all(), "what is written: half a step"
        assert (np.abs(given_ - read) <= step).all(), "what is made to sum to 1: one step"
        apart = (np.exp(read) * (read - given_)).sum()
        assert apart <= step**2 / 8 + 1e-5, "KL of what is read from what was given, by Hoeffding's lemma"


@quick
@given(lists=teachers())
def test_nothing_listed_twice_and_nothing_that_does_not_sum_to_one(lists: Lists) -> None:
    half = lists._replace(tail=lists.tail - 1.0, log_probs=lists.log_probs - 1.0)
    with pytest.raises(ValueError, match=r"list and tail of token 0 sum to 0\.36"):
        pack_lists(half)
    log_probs = np.concatenate([lists.log_probs, np.full((len(lists.tail), 2), -np.inf, dtype=np.float32)], -1)
    token_ids = np.concatenate([lists.token_ids, np.full((len(lists.tail), 2), -1)], -1)
    token_ids[-1, -2:], log_probs[-1, -2:] = 5, -30.0
    with pytest.raises(ValueError, match="lists an id twice"):
        pack_lists(Lists(token_ids, log_probs, lists.tail))


def teacher_and_student(rows: int = 60, width: int = 300) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    teacher = 3.0 * torch.randn(rows, width, generator=generator)
    return teacher, teacher + torch.randn(rows, width, generator=generator)


def gradient(function, student: Tensor) -> Tensor:
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def test_a_padded_list_is_worth_what_the_exact_one_is() -> None:
    """Read together, lists are padded to the longest; read alone they are not. Value and gradient do not see it."""
    teacher, student = teacher_and_student()
    packed = pack_lists(as_lists(top_mass(teacher, 0.05, most=64)))
    ids, log_probs, tail = torches(unpack_lists(packed, *whole(packed)))
    assert ((ids == -1).sum(-1) > 0).any()
    assert (log_probs[ids == -1] == -torch.inf).all()

    def together(z: Tensor) -> Tensor:
        return sparse_kl(z, log_probs, token_ids=ids, tail=tail)

    slopes = gradient(together, student)
    for row in range(len(teacher)):
        alone = torches(unpack_lists(packed, np.array([row]), np.array([row + 1])))
        assert (alone[0] >= 0).all()

        def exact(z: Tensor, alone=alone) -> Tensor:
            return sparse_kl(z, alone[1], token_ids=alone[0], tail=alone[2])

        mine = student[row : row + 1]
        torch.testing.assert_close(together(student)[row], exact(mine)[0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(slopes[row : row + 1], gradient(exact, mine), rtol=1e-5, atol=1e-6)


def test_trap_cells_that_do_not_sum_to_one() -> None:
    """Levels as they are: a token weighs what its cells happen to sum to, and agreement costs something. And what
    rounding left of 1 has little to do with the tail.
    """
    teacher, student = teacher_and_student()
    listed = top_mass(teacher, 0.01, most=64)
    packed = pack_lists(as_lists(listed), bits=3)
    ids, log_probs, tail = torches(unpack_lists(packed, *whole(packed)))
    shift = (listed.log_probs.amax(-1) - log_probs.amax(-1))[:, None]
    raw, raw_tail = log_probs + shift, tail + shift[:, 0]
    mass = raw.exp().sum(-1) + raw_tail.exp()
    assert (mass - 1).abs().max() > 0.1
    right = gradient(lambda z: sparse_kl(z, log_probs, token_ids=ids, tail=tail), student)
    wrong = gradient(lambda z: sparse_kl(z, raw, token_ids=ids, tail=raw_tail), student)
    torch.testing.assert_close(wrong, mass[:, None] * right, rtol=1e-4, atol=1e-6)

    others = (300 - (ids != -1).sum(-1, keepdim=True)).log()
    agreeing = (tail[:, None] - others).expand(-1, 301).scatter(-1, ids.masked_fill(ids == -1, 300), log_probs)[:, :300]
    assert sparse_kl(agreeing, log_probs, token_ids=ids, tail=tail).max() < 1e-5
    assert gradient(lambda z: sparse_kl(z, log_probs, token_ids=ids, tail=tail), agreeing).abs().max() < 1e-6
    costs = sparse_kl(agreeing, raw, token_ids=ids, tail=raw_tail)
    torch.testing.assert_close(costs, (mass * mass.log()).clamp(min=0.0), rtol=1e-3, atol=1e-5)

    left = (1.0 - raw.exp().sum(-1)).clamp(min=0.0) / listed.tail.exp()
    assert (left - 1).abs().median() > 0.9
    assert ((tail - listed.tail).abs() <= torch.from_numpy(steps_of(packed["steps"]))).all()


def test_more_bits_are_nearer_to_the_list_itself() -> None:
    teacher, student = teacher_and_student()
    listed = top_mass(teacher, 0.02, most=64)
    exact = sparse_kl(student, listed.log_probs, token_ids=listed.token_ids, tail=listed.tail)
    away = []
    for bits in (2, 4, 6, 8):
        packed = pack_lists(as_lists(listed), bits=bits)
        ids, log_probs, tail = torches(unpack_lists(packed, *whole(packed)))
        away.append(float((sparse_kl(student, log_probs, token_ids=ids, tail=tail) - exact).square().mean().sqrt()))
    assert away[0] > 3 * away[1] > 9 * away[2] > 27 * away[3]
    assert away[3] < 0.01 * float(exact.mean())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["threshold", "plain", "hot"])
def test_draws_stay_unbiased_over_the_rounding(kind: str, bits: int) -> None:
    """Over a comb of uniforms each weight's mean is what was given; so are gradient and, nearly, value."""
    teacher, student = teacher_and_student(rows=6, width=40)
    generator = torch.Generator().manual_seed(1)
    sampled = {
        "threshold": lambda: threshold_targets(teacher, 0.02, most=12, generator=generator),
        "plain": lambda: sample_targets(teacher, 12, generator=generator),
        "hot": lambda: sample_targets(teacher, 12, proposal_temperature=1.5, generator=generator),
    }[kind]()
    draws, comb = as_draws(sampled), 512
    uniforms = ((np.arange(comb) + 0.5) / comb)[:, None, None].repeat(6, 1).repeat(draws.token_ids.shape[1] + 1, 2)
    copies = Draws(*(np.concatenate([part] * comb) for part in draws))
    packed = pack_draws(copies, uniforms.reshape(comb * 6, -1), bits=bits)
    assert faults(packed) is None
    assert ("own" in packed) == (kind == "threshold")
    ids, log_probs, weights = unpack_draws(packed, *whole(packed))
    for row in range(6):
        given_, found = np.zeros(40), np.zeros(40)
        real = draws.token_ids[row] != -1
        np.add.at(given_, draws.token_ids[row][real], draws.weights[row][real])
        mine = ids[row::6] != -1
        np.add.at(found, ids[row::6][mine], weights[row::6][mine] / comb)
        np.testing.assert_allclose(found, given_, rtol=4e-3, atol=1e-4)
    parts = torches((log_probs, ids, weights))
    many = student.repeat(comb, 1)

    def mean(z: Tensor) -> Tensor:
        return sampled_kl(z, parts[0], token_ids=parts[1], weights=parts[2]).unflatten(0, (comb, 6)).mean(0)

    def exact(z: Tensor) -> Tensor:
        return sampled_kl(z, sampled.log_probs, token_ids=sampled.token_ids, weights=sampled.weights)

    step = torch.from_numpy(steps_of(packed["steps"][:6]))
    allowed = step**2 / 8 * sampled.weights.sum(-1) + 2e-2 if kind == "threshold" else torch.full((6,), 2e-2)
    assert ((mean(many) - exact(student)).abs() <= allowed).all()
    slopes = gradient(mean, many).unflatten(0, (comb, 6)).sum(0)
    torch.testing.assert_close(slopes, gradient(exact, student), rtol=4e-3, atol=2e-3)


def test_draws_and_their_rounding_together_are_unbiased_for_forward_kl() -> None:
    """Both kinds of chance at once, at 3 bits: the mean gradient is that of the dense loss, within its own spread."""
    teacher, student = teacher_and_student(rows=1, width=9)
    rng, many = np.random.default_rng(0), 20_000
    uniforms = torch.from_numpy(rng.random(many))
    sampled = threshold_targets_at(teacher.expand(many, -1), uniforms, 0.0, most=3)
    packed = pack_draws(as_draws(sampled), rng.random((many, 4)), bits=3)
    ids, log_probs, weights = torches(unpack_draws(packed, *whole(packed)))

    def value(z: Tensor) -> Tensor:
        return sampled_kl(z, log_probs, token_ids=ids, weights=weights)

    each = gradient(value, student.expand(many, -1))
    error = each.std(0) / many**0.5
    assert ((each.mean(0) - gradient(lambda z: forward_kl(z, teacher), student)[0]).abs() <= 4.5 * error + 1e-6).all()
    assert (each.std(0) > 0).all()


def test_an_id_drawn_twice_is_written_once() -> None:
    draws = Draws(np.array([[7, 3, 7, -1]]), np.log(np.array([[0.5, 0.5, 0.5, 1]])), np.array([[0.25, 0.5, 0.25, 0]]))
    packed = pack_draws(draws, np.full((1, 5), 0.5), bits=8)
    assert packed["counts"].tolist() == [2]
    ids, log_probs, weights = unpack_draws(packed, *whole(packed))
    assert ids.tolist() == [[3, 7]]
    np.testing.assert_allclose(weights, 0.5, atol=1e-4)
    np.testing.assert_allclose(log_probs, math.log(0.5), atol=1e-3)


def test_what_rounds_to_nothing_is_padding_and_makes_no_nan() -> None:
    logs = np.array([[0.0, -35.0]])
    draws = Draws(np.array([[4, 9]]), logs, np.exp(logs))
    packed = pack_draws(draws, np.full((1, 3), 0.5))
    ids, log_probs, weights = torches(unpack_draws(packed, *whole(packed)))
    assert ids.tolist() == [[4, -1]]
    student = torch.zeros(1, 10).index_fill(1, torch.tensor([9]), -torch.inf)
    assert torch.isfinite(sampled_kl(student, log_probs, token_ids=ids, weights=weights)).all()


@pytest.mark.parametrize(
    ("weight", "log_prob", "message"),
    [
        (-0.1, -1.0, "above 0"),
        (math.nan, -1.0, "above 0"),
        (0.1, -math.inf, "finite"),
        (1e9, -1.0, "at most 3,269,017"),
    ],
)
def test_draws_that_cannot_be_written(weight: float, log_prob: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_draws(Draws(np.array([[1]]), np.array([[log_prob]]), np.array([[weight]])), np.zeros((1, 2)))


@pytest.mark.parametrize("kind", ["lists", "draws"])
@quick
@given(seed=st.integers(0, 999), every=st.integers(1, 40))
def test_any_runs_of_tokens_read_as_the_whole_does(kind: str, seed: int, every: int) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(50, 80)) * rng.choice([0.5, 3, 12], size=(50, 1))).float()
    starts = np.arange(0, 50, every)
    if kind == "lists":
        packed, unpack = pack_lists(as_lists(top_mass(logits, 0.1, most=20)), starts=starts), unpack_lists
    else:
        draws = as_draws(threshold_targets_at(logits, torch.from_numpy(rng.random(50)), 0.04, most=20))
        packed = pack_draws(draws, rng.random((50, draws.token_ids.shape[1] + 1)), starts=starts)
        unpack = unpack_draws
    every_token = unpack(packed, *whole(packed))
    begin = rng.integers(0, 51, size=6)
    end = np.minimum(begin + rng.integers(0, 12, size=6), 50)
    some = unpack(packed, begin, end)
    asked = np.concatenate([np.arange(a, b) for a, b in zip(begin, end, strict=True)])
    for mine, all_ in zip(some, every_token, strict=True):
        assert mine.dtype == all_.dtype
        if mine.ndim == 1:
            np.testing.assert_array_equal(mine, all_[asked])
        else:
            np.testing.assert_array_equal(mine, all_[asked][:, : mine.shape[1]])
            assert np.isin(all_[asked][:, mine.shape[1] :], [-1, 0, -np.inf]).all()


def test_nothing_asked_and_nothing_written() -> None:
    empty = pack_lists(Lists(np.empty((0, 4), np.int64), np.empty((0, 4)), np.empty(0)))
    assert faults(empty) is None
    assert unpack_lists(empty, *whole(empty)).tail.shape == (0,)
    teacher, _ = teacher_and_student(rows=4)
    packed = pack_lists(as_lists(top_k(teacher, 3)))
    assert unpack_lists(packed, np.array([], dtype=np.int64), np.array([], dtype=np.int64)).token_ids.shape == (0, 0)
    assert unpack_lists(packed, np.array([2]), np.array([2])).tail.shape == (0,)


def test_other_tokens_are_not_looked_at() -> None:
    """What is not of the tokens asked for may be anything: neither its bytes nor its marks are used."""
    teacher, _ = teacher_and_student(rows=90)
    rng = np.random.default_rng(0)
    draws = as_draws(threshold_targets(teacher, 0.02, most=30, generator=torch.Generator().manual_seed(0)))
    packed = pack_draws(draws, rng.random((90, draws.token_ids.shape[1] + 1)), starts=np.arange(0, 90, 30))
    span, bits = (np.array([30]), np.array([60])), int(packed["bits"][0])
    expected = unpack_draws(packed, *span)
    first, last, buckets = packed["marks"][1].astype(int), packed["marks"][2].astype(int), len(packed["edges"]) - 1
    of = {
        "counts": (first[0], last[0]), "steps": (first[0], last[0]), "origins": (first[0], last[0]),
        "means": (first[0], last[0]),
        "unary": ((first[1] + buckets * first[0]) // 8, (last[1] + buckets * last[0]) // 8 + 1),
        "own": (first[1] // 8, last[1] // 8 + 1), "levels": (first[2] * bits // 8, last[2] * bits // 8 + 1),
        "low": (first[3] // 8, last[3] // 8 + 1),
    }  # fmt: skip
    poisoned = dict(packed)
    for name, (start, stop) in of.items():
        value = packed[name].copy()
        value[:start], value[stop:] = 77, 77
        poisoned[name] = value
    for mine, theirs in zip(unpack_draws(poisoned, *span), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_arrays_that_do_not_fit_each_other_are_told() -> None:
    teacher, _ = teacher_and_student()
    packed = pack_lists(as_lists(top_k(teacher, 5)))
    wrong = {
        "unary": packed["unary"][:-1], "low": packed["low"][1:], "levels": packed["levels"][:0],
        "counts": packed["counts"][1:], "steps": packed["steps"].astype(np.float32), "bits": np.array([9], np.uint8),
        "marks": packed["marks"][::-1], "edges": packed["edges"] + 1,
    }  # fmt: skip
    for name, value in wrong.items():
        assert faults({**packed, name: value}), name
        assert faults({key: kept for key, kept in packed.items() if key != name}), name


def test_reading_is_fast_enough_for_any_training() -> None:
    """At K = 32: the processor's own seconds, so that other work counts for little."""
    rng = np.random.default_rng(0)
    logits = np.log(rng.dirichlet(np.full(33, 0.2), size=4096) + 1e-9)
    logits -= np.logaddexp.reduce(logits, -1)[:, None]
    token_ids = np.argsort(rng.random((4096, 400)), -1)[:, :32] * 120
    packed = pack_lists(Lists(token_ids, logits[:, :32], logits[:, 32]), starts=np.arange(0, 4096, 256))
    rates = []
    for _ in range(5):
        rows = rng.choice(16, 8, replace=False) * 256
        started = time.process_time()
        unpack_lists(packed, rows, rows + 256)
        rates.append(8 * 256 / (time.process_time() - started))
    assert max(rates) > 300_000
