"""Terms as training goes on: kinds that need more than logits, schedules, random draws, balanced weights."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.errors import PlanError, TrainingError
from attar.logits import Projection
from attar.objectives.chance import row_keys
from attar.objectives.from_dense import drawn_kl, top_k_kl, top_k_reverse_kl
from attar.objectives.own import OwnObjective
from attar.objectives.response import dist, dkd, forward_kl, ofa, taid
from attar.objectives.schedules import AdaptiveState, adapt, linear
from attar.objectives.terms.balance import Balance, balance_factors
from attar.objectives.terms.terms import Loss, Terms
from attar.recipe.objectives import (
    AnyObjectiveSpec,
    DISTSpec,
    DKDSpec,
    ForwardKLSpec,
    HardLabelsSpec,
    OFASpec,
    ReverseKLSpec,
    SampledKLSpec,
    SparseKLSpec,
    SparseReverseKLSpec,
    TAIDSpec,
    TemperatureSchedule,
    WeightSchedule,
)
from attar.signals import Signals

N, C = 9, 5
LABELS = torch.tensor([0, 3, -100, 1, -100, 2, 4, 0, 1])
KEPT = LABELS != -100
SAMPLED = SampledKLSpec(kind="sampled_kl", samples=6, proposal_temperature=1.5)
NEW = (
    TAIDSpec(kind="taid", weight=0.5, temperature=2.0, schedule="linear", start=0.2),
    DKDSpec(kind="dkd", weight=0.3, temperature=3.0, beta=2.0),
    OFASpec(kind="ofa", gamma=1.4, temperature=2.0),
    SparseKLSpec(kind="sparse_kl", k=2, temperature=2.0),
    SparseReverseKLSpec(kind="sparse_reverse_kl", k=2, weight=0.1),
    SAMPLED,
    DISTSpec(kind="dist", weight=2.0, temperature=2.0),
)


def make(*specs: AnyObjectiveSpec | OwnObjective, problem: Any = "single_label", seed: int = 0) -> Terms:
    return Terms(specs, problem=problem, seed=seed)


def sides(seed: int = 1, outputs: int = C) -> tuple[Signals, Signals]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, N, outputs, generator=generator, dtype=torch.float64)
    return Signals(student.requires_grad_()), Signals(teacher)


def ask(terms: Terms, labels: Tensor | None = LABELS, **options: Any) -> Loss:
    student, teacher = sides()
    return terms(student, teacher, labels, terms.kept(labels, N, None), **options)


def test_each_new_term_is_the_mean_of_its_function_and_the_total_their_weighted_sum() -> None:
    student, teacher = sides()
    s, t, labels = student.logits, teacher.logits, LABELS[KEPT]
    terms = make(*NEW)
    loss = ask(terms, progress=0.25)
    rows = torch.arange(N)
    keys = row_keys(rows, seed=0, name="sampled_kl", progress=0.25)
    expected = {
        "taid": 4 * taid(s / 2, t / 2, progress=0.2 + 0.8 * 0.25).mean(),
        "dkd": 9 * dkd(s[KEPT] / 3, t[KEPT] / 3, labels=labels, beta=2.0).mean(),
        "ofa": 4 * ofa(s[KEPT] / 2, t[KEPT] / 2, labels=labels, gamma=1.4).mean(),
        "sparse_kl": 4 * top_k_kl(s / 2, t / 2, k=2).mean(),
        "sparse_reverse_kl": top_k_reverse_kl(s, t, k=2).mean(),
        "sampled_kl": drawn_kl(s, t, keys=keys, samples=6, proposal_temperature=1.5).mean(),
        "dist": dist(s / 2, t / 2),
    }
    assert tuple(loss.terms) == terms.names == tuple(expected)
    for name, value in expected.items():
        torch.testing.assert_close(loss.terms[name], value.detach(), msg=name)
    torch.testing.assert_close(loss.total, sum(spec.weight * expected[spec.kind] for spec in NEW))
    assert terms.needs_labels
    assert terms.kept(LABELS, N, None) == dict.fromkeys(terms.names, N) | {"dkd": 7, "ofa": 7}


def test_dist_alone_is_a_batch_term_and_everything_masked_is_zero() -> None:
    student, teacher = sides()
    terms = make(NEW[-1])
    torch.testing.assert_close(ask(terms).total, 2 * dist(student.logits / 2, teacher.logits / 2))
    labelled = make(*(spec for spec in NEW if spec.kind in ("dkd", "ofa")))
    for labels in (None, torch.full((N,), -100)):
        total = labelled(student, teacher, labels, labelled.kept(labels, N, None)).total
        (gradient,) = torch.autograd.grad(total, student.logits)
        assert float(total.detach()) == 0.0
        assert (gradient == 0).all()


def test_micro_batches_of_row_terms_add_up_to_the_big_batch() -> None:
    """Those that draw at random too: a row's draw is its own, in whatever batch it is."""
    terms = make(*NEW[:-1])
    student, teacher = sides()
    counts, rows = terms.kept(LABELS, N, None), torch.arange(100, 100 + N)
    whole = terms(student, teacher, LABELS, counts, progress=0.5, rows=rows)
    order = torch.tensor([8, 2, 0, 1, 3, 7, 6, 5, 4])
    parts = [
        terms(Signals(student.logits[at]), Signals(teacher.logits[at]), LABELS[at], counts, progress=0.5, rows=rows[at])
        for at in order.split([1, 3, 5])
    ]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)
    for name in terms.names:
        torch.testing.assert_close(sum(part.terms[name] for part in parts), whole.terms[name])
    gradients = [torch.autograd.grad(t, student.logits)[0] for t in (sum(p.total for p in parts), whole.total)]
    torch.testing.assert_close(*gradients)


def test_draws_change_with_step_seed_and_term_and_repeat_otherwise() -> None:
    values = [
        ask(make(SAMPLED, SAMPLED, seed=seed), progress=progress).terms
        for seed, progress in ((0, 0.1), (0, 0.2), (1, 0.1))
    ]
    found = [float(value) for terms in values for value in terms.values()]
    assert len(set(found)) == 6
    assert float(ask(make(SAMPLED), progress=0.1).terms["sampled_kl"]) == found[0]
    state = torch.get_rng_state()
    ask(make(SAMPLED))
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    import attar.objectives.reduction.rows as reduction

    whole = ask(make(SAMPLED)).total
    for name in ("_BLOCK", "_TILE"):
        monkeypatch.setattr(reduction, name, 1)
    monkeypatch.setattr(reduction, "_rows_of", lambda *_: 2)
    torch.testing.assert_close(ask(make(SAMPLED)).total, whole)


def test_sparse_terms_take_projections_and_share_the_teacher_s_product(monkeypatch: pytest.MonkeyPatch) -> None:
    import attar.logits as module

    generator = torch.Generator().manual_seed(3)
    hidden, weight, states, head = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((N, 4), (C, 4), (N, 3), (C, 3))
    )
    student, teacher = Projection(hidden.requires_grad_(), weight), Projection(states, head)
    terms = make(ForwardKLSpec(kind="forward_kl"), *NEW[3:6])
    counts = terms.kept(None, N, None)
    expected = terms(Signals(student.dense()), Signals(teacher.dense()), None, counts).total
    made: list[torch.Size] = []
    real = module._product
    monkeypatch.setattr(module, "_product", lambda a, b: made.append(b.shape) or real(a, b))
    total = terms(Signals(student), Signals(teacher), None, counts).total
    torch.testing.assert_close(total, expected)
    assert made.count(torch.Size([3, C])) == 1


@pytest.mark.parametrize("spec", NEW, ids=lambda spec: spec.kind)
def test_what_means_nothing_for_a_problem_is_named(spec: AnyObjectiveSpec) -> None:
    with pytest.raises(PlanError, match=rf"objectives\[0\]\.kind: {spec.kind} compares"):
        make(spec, problem="regression")
    if spec.kind in ("dkd", "ofa", "dist"):
        with pytest.raises(PlanError, match=rf"objectives\[0\]\.kind: {spec.kind} compares classes"):
            make(spec, problem="multi_label")
    else:
        student, teacher = sides()
        terms = make(spec, problem="multi_label")
        assert torch.isfinite(terms(student, teacher, None, terms.kept(None, N, None)).total)


# Schedules.


def test_weights_and_temperatures_follow_their_schedules() -> None:
    moving = ForwardKLSpec(
        kind="forward_kl",
        weight=WeightSchedule(start=0.0, end=2.0, until=0.5),
        temperature=TemperatureSchedule(start=4.0, end=1.0, shape="cosine"),
    )
    terms = make(moving, ReverseKLSpec(kind="reverse_kl"), HardLabelsSpec(kind="hard_labels", weight=0.5))
    student, teacher = sides()
    for progress, weight, temperature in (
        (0.0, 0.0, 4.0),
        (0.25, 1.0, 1 + 1.5 * (1 + math.sqrt(0.5))),
        (1.0, 2.0, 1.0),
    ):
        loss = ask(terms, progress=progress)
        value = temperature**2 * forward_kl(student.logits / temperature, teacher.logits / temperature).mean()
        torch.testing.assert_close(loss.terms["forward_kl"], value.detach())
        rest = loss.terms["reverse_kl"] + 0.5 * loss.terms["hard_labels"]
        torch.testing.assert_close(loss.total.detach(), weight * value.detach() + rest)
        told = terms.moving(progress)
        assert told.keys() == {"weight_forward_kl", "temperature_forward_kl"}
        assert told["weight_forward_kl"] == pytest.approx(weight)
        assert told["temperature_forward_kl"] == pytest.approx(temperature)
    assert make(ForwardKLSpec(kind="forward_kl")).moving(0.3) == {}
    torch.testing.assert_close(ask(terms).total, ask(terms, progress=1.0).total)  # an evaluation sees the end


def test_the_adaptive_target_follows_the_authors_rule_and_is_part_of_the_state() -> None:
    spec = TAIDSpec(kind="taid", start=0.3, end=0.9, alpha=0.7, beta=0.9)
    terms, state = make(spec, ForwardKLSpec(kind="forward_kl")), AdaptiveState(0.3)
    student, teacher = sides()
    for step, loss in enumerate([1.0, 0.8, 0.0, 0.7, 0.65, 0.2]):
        used = max(state.value, linear(step / 6, start=0.3, end=0.9))
        assert terms.moving(step / 6) == {"progress_taid": used}
        value = ask(terms, progress=step / 6).terms["taid"]
        torch.testing.assert_close(value, taid(student.logits, teacher.logits, progress=used).mean().detach())
        terms.courses.advance({"taid": loss}, step / 6)
        if loss:  # a step that kept no row is passed over
            state = adapt(state, loss, step / 6, start=0.3, end=0.9, alpha=0.7, beta=0.9)
    assert linear(5 / 6, start=0.3, end=0.9) < state.value <= 0.9
    stored = terms.to(torch.bfloat16).state_dict()
    assert stored.keys() == {"courses.adaptive.taid._extra_state"}
    again = make(spec, ForwardKLSpec(kind="forward_kl"))
    again.load_state_dict(stored)
    for other in (again, copy.deepcopy(terms), pickle.loads(pickle.dumps(terms))):
        assert other.courses.adaptive["taid"].state == state
        assert other.moving(0.0) == {"progress_taid": state.value}
    copied = copy.deepcopy(terms)
    copied.courses.advance({"taid": 1.0}, 1.0)
    assert terms.courses.adaptive["taid"].state == state
    fresh = make(spec)
    fresh.load_state_dict(make(spec).state_dict())
    assert fresh.courses.adaptive["taid"].state == AdaptiveState(0.3)
    assert make(spec).moving(1.0) == {"progress_taid": 0.9}, "an evaluation sees the end"


# Balance.


def test_balanced_products_are_in_proportion_to_the_weights_and_keep_their_sum() -> None:
    weights, norms = {"a": 1.0, "b": 3.0, "c": 0.5}, {"a": 10.0, "b": 0.01, "c": 2.0}
    factors = balance_factors(weights, norms)
    products = {name: factors[name] * weights[name] * norms[name] for name in weights}
    assert products["b"] == pytest.approx(3 * products["a"])
    assert products["c"] == pytest.approx(0.5 * products["a"])
    assert sum(products.values()) == pytest.approx(sum(weights[name] * norms[name] for name in weights))


@pytest.mark.parametrize("norm", [0.0, math.nan, math.inf])
def test_a_term_without_a_gradient_cannot_be_balanced(norm: float) -> None:
    with pytest.raises(TrainingError, match=rf"training\.balance: .* of b \({norm:g}\), c \(0\) has no size"):
        balance_factors({"a": 1.0, "b": 1.0, "c": 2.0}, {"a": 1.0, "b": norm, "c": 0.0})


def test_factors_multiply_the_weights_and_are_part_of_the_state() -> None:
    specs = ForwardKLSpec(kind="forward_kl", weight=0.5), ReverseKLSpec(kind="reverse_kl", weight=0.0), NEW[3]
    terms = make(*specs)
    balance = terms.courses.balanced()
    assert balance is not None
    assert balance.weights == {"forward_kl": 0.5, "sparse_kl": 1.0}
    before = ask(terms).total
    balance.take({"forward_kl": 2.0, "sparse_kl": 1.0})
    loss = ask(terms)
    factors = {"forward_kl": 2 / 3, "sparse_kl": 4 / 3}
    assert balance.factors == pytest.approx(factors)
    expected = 0.5 * factors["forward_kl"] * loss.terms["forward_kl"] + factors["sparse_kl"] * loss.terms["sparse_kl"]
    torch.testing.assert_close(loss.total.detach(), expected)
    again = make(*specs)
    again.courses.balanced()
    torch.testing.assert_close(ask(again).total, before)
    again.load_state_dict(terms.state_dict())
    assert again.courses.balance.factors == balance.factors
    assert make(specs[0], specs[1]).courses.balanced() is None
    assert isinstance(copy.deepcopy(terms).courses.balance, Balance)


def test_a_term_alone_has_weight_one() -> None:
    terms = make(*NEW)
    for name, value in ask(terms).terms.items():
        torch.testing.assert_close(ask(terms, alone=name).total.detach(), value)


# Functions of one's own.


def with_labels(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return dkd(student, teacher, labels=labels)


def with_both(student: Tensor, teacher: Tensor, *, progress: float, labels: Tensor) -> Tensor:
    return progress * with_labels(student, teacher, labels)


def with_progress(student: Tensor, teacher: Tensor, *, progress: float = 0.0) -> Tensor:
    return progress * forward_kl(student, teacher)


def test_a_function_of_one_s_own_is_given_what_it_asks_for() -> None:
    terms = make(OwnObjective(with_labels), OwnObjective(with_both), OwnObjective(with_progress))
    student, teacher = sides()
    loss = ask(terms, progress=0.25)
    labelled = dkd(student.logits[KEPT], teacher.logits[KEPT], labels=LABELS[KEPT]).mean().detach()
    torch.testing.assert_close(loss.terms["with_labels"], labelled)
    torch.testing.assert_close(loss.terms["with_both"], 0.25 * labelled)
    torch.testing.assert_close(
        loss.terms["with_progress"], 0.25 * forward_kl(student.logits, teacher.logits).mean().detach()
    )
    assert terms.kept(LABELS, N, None) == {"with_labels": 7, "with_both": 7, "with_progress": N}
    assert terms.needs_labels
    assert OwnObjective(with_labels).record().labels
    assert not OwnObjective(with_progress).record().labels


def test_labels_of_one_s_own_function_by_problem() -> None:
    seen: list[Tensor] = []

    def look(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return (student - teacher).square().sum(-1)

    student, teacher = sides(outputs=2)
    multi = torch.tensor([[0.0, math.nan], [1.0, 0.0]] + [[math.nan] * 2] * (N - 2))
    terms = make(OwnObjective(look), problem="multi_label")
    terms(student, teacher, multi, terms.kept(multi, N, None))
    student, teacher = sides(outputs=1)
    numbers = torch.tensor([0.5, math.nan, 2.0] + [math.nan] * (N - 3))
    terms = make(OwnObjective(look), problem="regression")
    terms(student, teacher, numbers, terms.kept(numbers, N, None))
    assert [labels.tolist() for labels in seen] == [[0.0, 1.0, 0.0], [0.5, 2.0]]


def test_what_a_function_was_given_by_partial_is_left_alone() -> None:
    fixed = OwnObjective(partial(taid, progress=0.5), name="half")
    assert not fixed.needs_progress
    student, teacher = sides()
    expected = taid(student.logits, teacher.logits, progress=0.5).mean().detach()
    torch.testing.assert_close(ask(make(fixed), progress=0.9).terms["half"], expected)
    assert not OwnObjective(torch.nn.functional.cosine_similarity, name="c").needs_labels


def test_an_own_objective_can_be_scheduled() -> None:
    mine = OwnObjective(
        with_labels, weight=WeightSchedule(start=0.0, end=1.0), temperature=TemperatureSchedule(start=2.0, end=1.0)
    )
    terms = make(mine)
    assert terms.moving(0.5) == {"weight_with_labels": 0.5, "temperature_with_labels": 1.5}
    assert mine.record().weight == WeightSchedule(start=0.0, end=1.0)
