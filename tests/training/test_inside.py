"""Objectives on what models hold inside, trained on tiny models: each kind learns, is resumed, and is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from attar.errors import PlanError
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import AnyObjectiveSpec, HardLabelsSpec, OnLayers
from attar.signals import HiddenKey, Inside, Wanted, ask
from attar.training.distil import Distil
from attar.training.rows import LiveTeacher
from training.inside import ROWS, Scene, scene
from training.parts import same_bits

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "hidden of tokens": ("text", {"kind": "hidden", "pool": "none", "layers": "uniform"}),
    "fitnet": ("resnet", {"kind": "fitnet"}),
    "attention_transfer": ("resnet", {"kind": "attention_transfer"}),
    "channel_wise": ("resnet", {"kind": "channel_wise"}),
    "masked_generation of channels": ("resnet", {"kind": "masked_generation"}),
    "masked_generation of pixels": ("resnet", {"kind": "masked_generation", "of": "pixels", "masked": 0.5}),
    "review_kd": ("resnet", {"kind": "review_kd", "width": 8}),
    "attention_relations": ("text", {"kind": "attention_relations", "layers": "uniform"}),
    "attention_relations of images": ("vit", {"kind": "attention_relations", "of": ("key", "value"), "heads": 4}),
    "crd": ("text", {"kind": "crd", "width": 8}),
    "crd with a queue": ("resnet", {"kind": "crd", "width": 8, "negatives": 10}),
    "crd of maps": ("resnet", {"kind": "crd", "width": 8, "pool": "map"}),
    "rkd_distance": ("text", {"kind": "rkd_distance", "pool": "first"}),
    "rkd_angle": ("vit", {"kind": "rkd_angle"}),
    "similarity_preserving": ("text", {"kind": "similarity_preserving", "layers": "uniform"}),
    "similarity_preserving of maps": ("resnet", {"kind": "similarity_preserving", "pool": "map"}),
    "cka": ("resnet", {"kind": "cka", "layers": ((1, 2), (-1, -1))}),
}
WANTED = Wanted(logits=False, hidden=(HiddenKey(3, "mean"),))
kinds = pytest.mark.parametrize("kind", KINDS)


def spec(fields: dict[str, Any]) -> OnLayers:
    return TypeAdapter[Any](AnyObjectiveSpec).validate_python(fields)


def case(kind: str) -> tuple[Scene, OnLayers]:
    where, fields = KINDS[kind]
    return scene(where), spec(fields)


def loss(terms: Terms, where: Scene, student: nn.Module, rows: int = ROWS) -> Any:
    inputs = where.batch(rows)
    with torch.no_grad():
        theirs = ask(where.teacher(), inputs, terms.wanted_teacher)
    ours = ask(student, inputs, terms.wanted_student)
    return terms(ours, theirs, None, terms.kept(None, rows, inputs.get("attention_mask")))


def test_every_kind_is_here() -> None:
    listed = {fields["kind"] for _, fields in KINDS.values()}
    assert listed == {get_kind(one) for one in OnLayers.__args__}


def get_kind(one: Any) -> str:
    return one.model_fields["kind"].annotation.__args__[0]


@kinds
def test_it_learns_and_leaves_no_trace_in_the_student(tmp_path: Path, kind: str) -> None:
    where, one = case(kind)
    terms, model = where.terms(one), where.student()
    (name,) = terms.names
    before = float(loss(terms.eval(), where, model).terms[name])
    facts, _ = where.fit(tmp_path, terms.train(), model, checkpoints=0)
    after = float(loss(terms.eval(), where, model).terms[name])
    assert after < before
    assert facts.curve[0]["loss"] >= 0
    fresh = where.student()
    assert model.state_dict().keys() == fresh.state_dict().keys()
    assert [type(part) for part in model.modules()] == [type(part) for part in fresh.modules()]


@kinds
def test_gradients_reach_the_student_and_what_is_learned_and_no_teacher(kind: str) -> None:
    where, one = case(kind)
    terms, student, teacher = where.terms(one), where.student(), where.teacher()
    inputs = where.batch()
    ours, theirs = ask(student, inputs, terms.wanted_student), ask(teacher, inputs, terms.wanted_teacher)
    terms(ours, theirs, None, terms.kept(None, ROWS, inputs.get("attention_mask"))).total.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in student.parameters())
    unused = [name for name, p in terms.named_parameters() if p.grad is None]
    assert not unused


@pytest.mark.parametrize("kind", ["fitnet", "masked_generation of channels", "review_kd", "crd with a queue"])
def test_a_resumed_training_is_the_same_bit_for_bit(tmp_path: Path, kind: str) -> None:
    where, one = case(kind)
    _, whole = where.fit(tmp_path / "whole", where.terms(one), evaluate=lambda _: 0.0)
    stop = iter([None, None, KeyboardInterrupt])

    def evaluate(_: nn.Module) -> float:
        if (error := next(stop)) is not None:
            raise error
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        where.fit(tmp_path / "cut", where.terms(one), evaluate=evaluate, evaluations=6)
    assert (tmp_path / "cut" / "checkpoint-4").is_dir()
    _, resumed = where.fit(tmp_path / "cut", where.terms(one), evaluate=lambda _: 0.0)
    assert same_bits(resumed, whole)


@kinds
def test_what_is_not_kept_and_a_single_row_are_no_trouble(kind: str) -> None:
    where, one = case(kind)
    terms, student = where.terms(one), where.student()
    lone = loss(terms, where, student, rows=1)
    assert torch.isfinite(lone.total)
    lone.total.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in student.parameters())
    if one.form == "batch" and "queue" not in kind:
        assert float(lone.total.detach()) == 0.0


@kinds
def test_the_weight_is_applied_once(kind: str) -> None:
    where, one = case(kind)
    plain, heavy = (where.terms(one.model_copy(update={"weight": weight})).eval() for weight in (1.0, 3.0))
    student = where.student()
    light, strong = loss(plain, where, student), loss(heavy, where, student)
    torch.testing.assert_close(strong.total, 3.0 * light.total)
    torch.testing.assert_close(strong.terms, light.terms)
    torch.testing.assert_close(light.total.detach(), next(iter(light.terms.values())))


ROWWISE = [kind for kind, (_, fields) in KINDS.items() if spec(fields).form == "row" and kind != "review_kd"]


@pytest.mark.parametrize("kind", ROWWISE)
def test_micro_batches_of_row_objectives_add_up(kind: str) -> None:
    """Not of `review_kd` while it trains: its batch normalisation makes rows depend on each other."""
    where, one = case(kind)
    terms, student, teacher = where.terms(one).eval(), where.student(), where.teacher()
    pieces = [range(0, 5), range(5, 12)]
    counts = {terms.names[0]: 0}
    views = [where.task.batch(where.encoded, rows, where.processor) for rows in pieces]
    for view, rows in zip(views, pieces, strict=True):
        counts[terms.names[0]] += terms.kept(None, len(rows), view.get("attention_mask"))[terms.names[0]]
    parts = [
        terms(ask(student, view, terms.wanted_student), ask(teacher, view, terms.wanted_teacher), None, counts).total
        for view in views
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), loss(terms, where, student, rows=12).total)


def test_padding_does_not_matter_to_relations_of_tokens() -> None:
    where = scene("text")
    terms = where.terms(spec({"kind": "attention_relations", "layers": "uniform"}))
    texts = ["the dark side", "a house in town 3"]
    losses = []
    for padding in ({"padding": True}, {"padding": "max_length", "max_length": 20}):
        inputs = dict(where.processor(texts, return_tensors="pt", **padding))
        sides = ask(where.student(), inputs, terms.wanted_student), ask(where.teacher(), inputs, terms.wanted_teacher)
        losses.append(terms(*sides, None, terms.kept(None, 2, inputs["attention_mask"])).total)
    torch.testing.assert_close(losses[0], losses[1])


def test_the_same_seed_makes_the_same_projectors_and_leaves_the_global_state_alone() -> None:
    where, before = scene("resnet"), torch.get_rng_state()
    specs = [case(kind)[1] for kind in ("fitnet", "review_kd", "masked_generation of channels", "crd with a queue")]
    one, two = where.terms(*specs), where.terms(*reversed(specs))
    state = two.state_dict()
    assert one.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
    assert torch.equal(before, torch.get_rng_state())


def problems(where: Scene, *fields: dict[str, Any], **options: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        where.terms(*(spec(one) for one in fields), **options)
    return caught.value.problems


def test_models_that_do_not_have_what_is_compared_are_named() -> None:
    found = problems(
        scene("vit"),
        {"kind": "attention_transfer", "layers": "last"},
        {"kind": "similarity_preserving", "pool": "map"},
        {"kind": "attention_relations", "heads": 5},
        {"kind": "attention_relations", "layers": ((0, 1), (3, -1))},
        {"kind": "hidden", "layers": "cka"},
    )
    assert [line.partition(": ")[0] for line in found] == [
        "objectives[0].kind", "objectives[0].kind", "objectives[1].pool", "objectives[1].pool", "objectives[2].heads",
        "objectives[3].layers[0]", "objectives[3].layers[1]", "objectives[4].layers",
    ]  # fmt: skip
    for told, words in zip(found, (
        "hidden state 2 of the student is no feature map", "hidden state 3 of the teacher", "Use mean", "Use mean",
        "5 do not divide the student's query of layer 2, which is 8 wide. Give a divisor of 8",
        "the student has no attention layer 0; allowed are 1 to 2, or -1 (the last) to -2", "attention layer 3",
        "`cka` needs rows to compare layers on",
    ), strict=True):  # fmt: skip
        assert words in told
    (student, teacher) = problems(scene("resnet"), {"kind": "attention_relations"})
    assert "objectives[0].kind: the student: ResNetForImageClassification has no attention layer" in student
    assert "objectives[0].kind: the teacher: ResNetForImageClassification" in teacher
    nothing = {"student": Inside(), "teacher": Inside()}
    with pytest.raises(PlanError, match="hidden compares hidden states, but the student shows none"):
        Terms([spec({"kind": "hidden"})], problem="single_label", seed=0, **nothing)


def test_a_trainer_wants_live_views_of_the_same_tokens(tmp_path: Path) -> None:
    where, one = case("attention_relations")
    assert where.terms(one).wanted_student.by_token
    with pytest.raises(PlanError, match="token by token"):
        where.fit(tmp_path, where.terms(one), subword_dropout=0.2)
    where.fit(tmp_path, where.terms(one), token_dropout=0.2, max_steps=2)


def test_trap_mixed_labels_do_not_show_a_batch_to_the_queue_twice() -> None:
    where = scene("resnet")
    crd = spec({"kind": "crd", "width": 8, "negatives": 3 * ROWS})
    terms, student, inputs = where.terms(crd, HardLabelsSpec(kind="hard_labels")), where.student(), where.batch()
    distil = Distil(student.eval(), terms, LiveTeacher(where.teacher(), where.encoded, where.processor, WANTED))
    queue = dict(terms.named_buffers())["parts.crd.heads.2_3.student_negatives"]
    before = queue.clone()
    labels = torch.arange(ROWS) % 2
    counts = {"crd": ROWS, "hard_labels": ROWS}
    distil(inputs, labels, counts, view=inputs, partner_labels=labels.flip(0), share=0.3)
    assert torch.equal(queue[ROWS:], before[: 2 * ROWS])
