"""`Terms`: the weighted sum of a recipe's objectives, on every kind of problem."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attar.errors import PlanError, TrainingError
from attar.objectives.feature import cosine_distance, mse_distance
from attar.objectives.own import OwnObjective
from attar.objectives.response import forward_kl, jsd, logit_mse, reverse_kl
from attar.objectives.terms.terms import Loss, Terms
from attar.objectives.transform import standardise_logits
from attar.recipe.objectives import (
    ForwardKLSpec,
    HardLabelsSpec,
    HiddenSpec,
    JSDSpec,
    LogitMSESpec,
    ReverseKLSpec,
)
from attar.signals import HiddenKey, Inside, Signals, Wanted

N, C, T = 6, 4, 3
STUDENT_WIDTHS, TEACHER_WIDTHS = {0: 2, 1: 3, 2: 3}, {0: 5, 1: 5, 2: 5, 3: 5, 4: 3}


def make(*specs, problem="single_label", seed: int = 0) -> Terms:
    return Terms(
        specs,
        problem=problem,
        student=Inside(STUDENT_WIDTHS),
        teacher=Inside(TEACHER_WIDTHS),
        seed=seed,
    )


def signals(seed: int, widths: dict[int, int], outputs: int = C, dtype: torch.dtype = torch.float64) -> Signals:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    hidden = {HiddenKey(layer, "mean"): draw(N, width) for layer, width in widths.items()}
    hidden |= {HiddenKey(layer, "none"): draw(N, T, width) for layer, width in widths.items()}
    return Signals(draw(N, outputs), hidden)


def both(outputs: int = C, **options) -> tuple[Signals, Signals]:
    student, teacher = signals(1, STUDENT_WIDTHS, outputs, **options), signals(2, TEACHER_WIDTHS, outputs, **options)
    for value in (student.logits, *student.hidden.values()):
        value.requires_grad_()
    return student, teacher


def cut(whole: Signals, rows: slice) -> Signals:
    hidden = {key: value[rows] for key, value in whole.hidden.items()}
    return Signals(whole.logits[rows], hidden, None if whole.mask is None else whole.mask[rows])


def ask(terms: Terms, student: Signals, teacher: Signals | None, labels: Tensor | None = None) -> Loss:
    return terms(student, teacher, labels, terms.kept(labels, N, student.mask))


LABELS = torch.tensor([0, 3, -100, 1, -100, 2])
ALL = (
    ForwardKLSpec(kind="forward_kl", weight=0.5, temperature=2.0),
    ReverseKLSpec(kind="reverse_kl", weight=2.0),
    JSDSpec(kind="jsd", beta=0.3, temperature=3.0),
    LogitMSESpec(kind="logit_mse", weight=0.1, temperature=2.0),
    HardLabelsSpec(kind="hard_labels", weight=0.7, label_smoothing=0.1),
    HiddenSpec(kind="hidden", weight=0.2),
    ForwardKLSpec(kind="forward_kl", standardise=True, weight=0.3),
)


def test_each_term_is_the_mean_of_its_function_and_the_total_their_weighted_sum() -> None:
    terms = make(*ALL)
    student, teacher = both()
    loss = ask(terms, student, teacher, LABELS)
    s, t = student.logits, teacher.logits
    keep = LABELS != -100
    expected = {
        "forward_kl": 4 * forward_kl(s / 2, t / 2).mean(),
        "reverse_kl": reverse_kl(s, t).mean(),
        "jsd": 9 * jsd(s / 3, t / 3, beta=0.3).mean(),
        "logit_mse": logit_mse(s / 2, t / 2).mean(),
        "hard_labels": functional.cross_entropy(s[keep], LABELS[keep], label_smoothing=0.1),
        "hidden": cosine_distance(student.hidden[HiddenKey(2, "mean")], teacher.hidden[HiddenKey(4, "mean")]).mean(),
        "forward_kl_2": forward_kl(standardise_logits(s), standardise_logits(t)).mean(),
    }
    assert terms.names == tuple(expected)
    assert tuple(loss.terms) == terms.names
    for name, value in expected.items():
        torch.testing.assert_close(loss.terms[name], value.detach(), msg=name)
        assert not loss.terms[name].requires_grad
    weighted = sum(spec.weight * value for spec, value in zip(ALL, expected.values(), strict=True))
    torch.testing.assert_close(loss.total, weighted)


def test_counts_and_wants() -> None:
    terms = make(*ALL)
    assert terms.kept(LABELS, N, None) == dict.fromkeys(terms.names, N) | {"hard_labels": 4}
    assert terms.kept(None, N, None)["hard_labels"] == 0
    assert terms.wanted_student == Wanted(logits=True, hidden=(HiddenKey(2, "mean"),))
    assert terms.wanted_teacher == Wanted(logits=True, hidden=(HiddenKey(4, "mean"),))
    assert terms.needs_teacher
    assert terms.needs_labels


def test_labels_alone_want_nothing_of_a_teacher() -> None:
    terms = make(HardLabelsSpec(kind="hard_labels"))
    assert terms.wanted_teacher == Wanted(logits=False, hidden=())
    assert not terms.needs_teacher
    student, _ = both()
    torch.testing.assert_close(
        ask(terms, student, None, LABELS).total, functional.cross_entropy(student.logits, LABELS)
    )


def test_hidden_alone_wants_no_logits() -> None:
    terms = make(HiddenSpec(kind="hidden"))
    assert terms.wanted_student == Wanted(logits=False, hidden=(HiddenKey(2, "mean"),))
    assert not terms.needs_labels


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_micro_batches_add_up_to_the_big_batch(problem: str) -> None:
    """Labels and tokens are spread unevenly over the micro-batches, so a mean of means would differ."""
    outputs = 1 if problem == "regression" else C
    responses = [LogitMSESpec(kind="logit_mse")]
    if problem != "regression":
        responses += [ForwardKLSpec(kind="forward_kl", temperature=2.0), JSDSpec(kind="jsd")]
    hidden = HiddenSpec(kind="hidden", layers="uniform", pool="none", distance="mse")
    terms = make(*responses, HardLabelsSpec(kind="hard_labels"), hidden, problem=problem).double()
    student, teacher = both(outputs)
    student.mask = teacher.mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 0, 0]])
    labels = {
        "single_label": LABELS,
        "multi_label": torch.tensor([[0, 1, math.nan, 1.0]] * 3 + [[math.nan] * 3 + [0.0]] * 3),
        "regression": torch.tensor([0.5, math.nan, 1, 2, math.nan, math.nan]),
    }[problem]
    leaves = [student.logits, *[v for k, v in student.hidden.items() if k in terms.wanted_student.hidden]]
    leaves += list(terms.parameters())
    counts = terms.kept(labels, N, student.mask)
    assert counts["hidden"] == 11
    whole = terms(student, teacher, labels, counts)
    parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    losses = [terms(cut(student, part), cut(teacher, part), labels[part], counts) for part in parts]
    torch.testing.assert_close(sum(loss.total for loss in losses), whole.total)
    for name in terms.names:
        torch.testing.assert_close(sum(loss.terms[name] for loss in losses), whole.terms[name])
    per_part = [terms.kept(labels[part], part.stop - part.start, student.mask[part]) for part in parts]
    assert {name: sum(kept[name] for kept in per_part) for name in terms.names} == counts
    expected = torch.autograd.grad(whole.total, leaves)
    got = torch.autograd.grad(sum(loss.total for loss in losses), leaves)
    torch.testing.assert_close(got, expected)


def test_multi_label_is_the_binary_view() -> None:
    terms = make(
        ForwardKLSpec(kind="forward_kl"),
        HardLabelsSpec(kind="hard_labels", label_smoothing=0.2),
        LogitMSESpec(kind="logit_mse"),
        problem="multi_label",
    )
    student, teacher = both()
    labels = torch.tensor([[0.0, 1.0, math.nan, 1.0]] * N)
    assert terms.kept(labels, N, None) == {"forward_kl": N, "hard_labels": 3 * N, "logit_mse": N}
    loss = ask(terms, student, teacher, labels)
    p, s = teacher.logits.sigmoid(), student.logits.detach()
    soft = functional.binary_cross_entropy_with_logits(s, p) - functional.binary_cross_entropy(p, p)
    torch.testing.assert_close(loss.terms["forward_kl"], soft)
    keep = ~labels.isnan()
    hard = functional.binary_cross_entropy_with_logits(s[keep], (0.8 * labels[keep] + 0.1).double())
    torch.testing.assert_close(loss.terms["hard_labels"], hard)
    torch.testing.assert_close(loss.terms["logit_mse"], 0.5 * (s - teacher.logits).square().mean())


@pytest.mark.parametrize("shape", [(N, 1), (N,)])
def test_regression_is_plain_numbers(shape: tuple[int, ...]) -> None:
    terms = make(LogitMSESpec(kind="logit_mse"), HardLabelsSpec(kind="hard_labels"), problem="regression")
    student, teacher = both(1)
    student.logits = student.logits.reshape(shape)
    labels = torch.tensor([1.0, math.nan, 2.0, 3.0, math.nan, 4.0])
    loss = ask(terms, student, teacher, labels)
    s, t, keep = student.logits.detach().reshape(-1), teacher.logits.reshape(-1), ~labels.isnan()
    torch.testing.assert_close(loss.terms["logit_mse"], functional.mse_loss(s, t))
    torch.testing.assert_close(loss.terms["hard_labels"], functional.mse_loss(s[keep], labels[keep].double()))


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
@pytest.mark.parametrize("given", [False, True])
def test_no_label_at_all_is_zero_with_a_live_graph(problem: str, given: bool) -> None:
    terms = make(HardLabelsSpec(kind="hard_labels"), problem=problem)
    student, _ = both(1 if problem == "regression" else C)
    shape = (N, C) if problem == "multi_label" else (N,)
    labels = torch.full(shape, -100 if problem == "single_label" else math.nan) if given else None
    loss = ask(terms, student, None, labels)
    loss.total.backward()
    assert loss.total.item() == 0.0
    assert (student.logits.grad == 0).all()


def test_hidden_averages_over_pairs_and_projects_where_widths_differ() -> None:
    terms = make(HiddenSpec(kind="hidden", layers=((1, 1), (-1, -1)), distance="mse", weight=0.5))
    assert terms.layer_pairs == {"hidden": ((1, 1), (2, 4))}
    assert list(terms.parts["hidden"].projectors) == ["1_1"]
    student, teacher = both()
    loss = ask(terms, student, teacher)
    projected = student.hidden[HiddenKey(1, "mean")] @ terms.parts["hidden"].projectors["1_1"].weight.double().T
    first = mse_distance(projected, teacher.hidden[HiddenKey(1, "mean")]).mean()
    second = mse_distance(student.hidden[HiddenKey(2, "mean")], teacher.hidden[HiddenKey(4, "mean")]).mean()
    torch.testing.assert_close(loss.terms["hidden"], ((first + second) / 2).detach())
    torch.testing.assert_close(loss.total, 0.25 * (first + second))
    loss.total.backward()
    assert terms.parts["hidden"].projectors["1_1"].weight.grad.abs().sum() > 0


def test_projectors_are_checkpointed_and_the_same_for_the_same_seed() -> None:
    spec = HiddenSpec(kind="hidden", layers="uniform")
    torch.manual_seed(0)
    first, state = make(spec, seed=3), torch.get_rng_state()
    torch.manual_seed(1)
    again = make(ForwardKLSpec(kind="forward_kl"), spec, seed=3)
    assert first.state_dict().keys() == {"parts.hidden.projectors.1_2.weight"}
    weights = [terms.parts["hidden"].projectors["1_2"].weight for terms in (first, again, make(spec, seed=4))]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_copy_uses_its_own_projectors() -> None:
    terms = make(HiddenSpec(kind="hidden", layers="uniform"))
    student, teacher = both()
    for other in (copy.deepcopy(terms), pickle.loads(pickle.dumps(terms))):
        ask(other, student, teacher).total.backward()
        assert other.parts["hidden"].projectors["1_2"].weight.grad is not None
        assert terms.parts["hidden"].projectors["1_2"].weight.grad is None


def test_tokens_are_masked_and_counted() -> None:
    terms = make(HiddenSpec(kind="hidden", pool="none", distance="mse"))
    student, teacher = both()
    mask = torch.tensor([[1, 1, 0]] * N)
    student.mask = teacher.mask = mask
    key = HiddenKey(2, "none"), HiddenKey(4, "none")
    expected = mse_distance(student.hidden[key[0]], teacher.hidden[key[1]])[:, :2].mean()
    teacher.hidden[key[1]][:, 2] = math.nan
    assert terms.kept(None, N, mask) == {"hidden": 2 * N}
    torch.testing.assert_close(ask(terms, student, teacher).total, expected)


def test_pixels_without_a_mask_are_all_kept() -> None:
    terms = make(HiddenSpec(kind="hidden", pool="none", distance="mse"))
    student, teacher = both()
    expected = mse_distance(student.hidden[HiddenKey(2, "none")], teacher.hidden[HiddenKey(4, "none")]).mean()
    assert terms.kept(None, N, None) == {"hidden": N}
    torch.testing.assert_close(ask(terms, student, teacher).total, expected)


def test_own_objective_is_a_term_like_the_others() -> None:
    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        return (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1)

    terms = make(
        OwnObjective(distance, weight=0.5, temperature=2.0),
        OwnObjective(distance, name="plain", temperature=2.0, temperature_power=0),
        OwnObjective(distance, name="plain"),
    )
    assert terms.names == ("distance", "plain", "plain_2")
    student, teacher = both()
    loss = ask(terms, student, teacher)
    value = distance(student.logits.detach() / 2, teacher.logits / 2).mean()
    torch.testing.assert_close(loss.terms["distance"], 4 * value)
    torch.testing.assert_close(loss.terms["plain"], value)


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"weight": math.nan}, {"temperature": 0.0}])
def test_own_objective_refuses_bad_numbers(options: dict[str, float]) -> None:
    with pytest.raises(PlanError, match=rf"objective forward_kl: {next(iter(options))} is"):
        OwnObjective(forward_kl, **options)


def test_a_term_of_weight_zero_is_logged_only() -> None:
    terms = make(ForwardKLSpec(kind="forward_kl", weight=0.0), ReverseKLSpec(kind="reverse_kl"))
    student, teacher = both()
    loss = ask(terms, student, teacher)
    assert loss.terms["forward_kl"] > 0
    torch.testing.assert_close(loss.total, reverse_kl(student.logits, teacher.logits).mean())


def test_bf16_signals_give_a_float32_loss_and_bf16_gradients() -> None:
    terms = make(*ALL, HiddenSpec(kind="hidden", layers="uniform"))
    student, teacher = both(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = ask(terms, student, teacher, LABELS)
    loss.total.backward()
    assert loss.total.dtype is torch.float32
    assert student.logits.grad.dtype is torch.bfloat16


def test_all_misfits_are_told_at_once() -> None:
    with pytest.raises(PlanError) as caught:
        make(
            ForwardKLSpec(kind="forward_kl"),
            LogitMSESpec(kind="logit_mse", standardise=True),
            HiddenSpec(kind="hidden", layers=((3, 1), (1, 9))),
            HardLabelsSpec(kind="hard_labels", label_smoothing=0.1),
            problem="regression",
        )
    places = [problem.split(":")[0] for problem in caught.value.problems]
    assert places == [
        "objectives[0].kind",
        "objectives[1].standardise",
        "objectives[2].layers[0]",
        "objectives[2].layers[1]",
        "objectives[3].label_smoothing",
    ]


def test_signals_that_are_absent_or_do_not_fit() -> None:
    terms = make(ForwardKLSpec(kind="forward_kl"), HardLabelsSpec(kind="hard_labels"))
    student, teacher = both()
    with pytest.raises(TrainingError, match="the teacher's logits were not asked for"):
        ask(terms, student, None, LABELS)
    with pytest.raises(TrainingError, match=r"the student has \[6, 4\], the teacher \[6, 3\]"):
        ask(terms, student, Signals(teacher.logits[:, :3]), LABELS)
    with pytest.raises(TrainingError, match="hard_labels: 5 labels do not fit 6 rows"):
        ask(terms, student, teacher, LABELS[:5])
    with pytest.raises(TrainingError, match=r"the student's hidden state 2 \(mean\)"):
        ask(make(HiddenSpec(kind="hidden")), Signals(student.logits), teacher)
