"""Several teachers in a plan: their sizes together, and what does not go together, each with its place and its fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar.errors import PlanError, RecipeError
from attar.plan import Plan, make_plan
from attar.recipe.load import load_recipe, recipe_from
from attar.recipe.teacher import EnsembleSpec, ModelSpec
from plan.samples import plan_of, problems_of, write_model, write_rows
from plan.test_language import CHATML, TOKENS, write_language_model
from plan.test_language import recipe as language_recipe

ROUTE = {"by": "topic", "to": {"x": "one", "y": "two"}}
MIXED_UP = "states of different models mean different things"


def classifiers(root: Path, **second: Any) -> dict[str, Any]:
    write_model(root / "one")
    write_model(root / "two", {"w": (500, 10)}, **second)
    return {name: {"model": str(root / name)} for name in ("one", "two")}


def ensemble(members: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "ensemble", "members": members, **more}


def with_topics(root: Path, *topics: str) -> None:
    for split in ("train", "test"):
        write_rows(root / "rows", split=split, topic=list(topics))


def test_sizes_are_those_of_all_together(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, teacher=ensemble(classifiers(tmp_path)), budget={"max_params": "50%"})
    assert plan.teacher.params.likely == 15_000
    assert plan.teacher.bytes == 60_000
    assert plan.budget[0].limit == 7_500
    assert (plan.teacher.layers, plan.teacher.hidden, plan.teacher.family) == (4, 16, "bert")
    assert plan.signals.mode == "store"
    assert plan.signals.offered == ("logits",)
    assert "one (" in plan.teacher.source
    assert plan.teacher.source.endswith("probabilities")
    assert json.dumps(plan.to_dict())


def test_time_and_disk_count_every_member(tmp_path: Path) -> None:
    members = classifiers(tmp_path)
    together = plan_of(tmp_path, teacher=ensemble(members), training={"device": "cpu"})
    alone = plan_of(tmp_path, teacher={"kind": "local", **members["one"]}, training={"device": "cpu"})
    disk, time = ([plan.estimates[at].value for plan in (together, alone)] for at in (0, 2))
    assert disk[0] > disk[1]
    assert time[0] > time[1]
    routed = {"route": ROUTE}
    with_topics(tmp_path, "x", "y", "x", "y")
    apart = plan_of(tmp_path, teacher=ensemble(members, **routed), training={"device": "cpu"})
    assert apart.estimates[2].value == pytest.approx(time[1])


def test_a_members_faults_stand_at_its_place(tmp_path: Path) -> None:
    members = classifiers(tmp_path, id2label={"0": "a", "1": "c"})
    (found,) = problems_of(tmp_path, teacher=ensemble(members))
    assert found.startswith('teacher.members.two.model: it does not know 1 of the data\'s 2 labels: "b"')
    assert "Map its names to the data's in teacher.members.two.label_map" in found
    (found,) = problems_of(tmp_path, teacher=ensemble({**members, "two": {"model": str(tmp_path / "gone")}}))
    assert found.startswith("teacher.members.two.model: ")
    (found,) = problems_of(tmp_path, teacher=ensemble({**members, "two": {"model": "python"}}))
    assert found.startswith("teacher.members.two.model: ")


@pytest.mark.parametrize(
    ("second", "more", "told"),
    [
        ({}, {}, f"hidden needs hidden:4:mean, but several teachers that are mixed offer logits alone: {MIXED_UP}"),
        ({"num_hidden_layers": 3}, {"route": ROUTE}, "of one shape (one: bert, 4 layers, 16 wide; two: bert, 3 layers"),
    ],
)  # fmt: skip
def test_states_are_compared_with_one_teacher_a_row_alone(
    tmp_path: Path, second: dict[str, Any], more: dict[str, Any], told: str
) -> None:
    with_topics(tmp_path, "x", "y", "x", "y")
    hidden = [{"kind": "forward_kl"}, {"kind": "hidden"}]
    found = problems_of(tmp_path, teacher=ensemble(classifiers(tmp_path, **second), **more), objectives=hidden)
    assert [told in line for line in found] == [True]
    alike = ensemble(classifiers(tmp_path), route=ROUTE)
    assert plan_of(tmp_path, teacher=alike, objectives=hidden).signals.needed == ("hidden:4:mean", "logits")[::-1]
    cka = [{"kind": "forward_kl"}, {"kind": "hidden", "layers": "cka"}]
    assert "layers: cka asks one model" in problems_of(tmp_path, teacher=alike, objectives=cka)[0]


def test_rows_need_a_teacher_each(tmp_path: Path) -> None:
    members = classifiers(tmp_path)
    (found,) = problems_of(tmp_path, teacher=ensemble(members, route={**ROUTE, "by": "tpoic"}))
    assert found.startswith("teacher.route.by: ")
    assert 'has no column "tpoic"' in found
    with_topics(tmp_path, "x", "y", "z", "y")
    found = problems_of(tmp_path, teacher=ensemble(members, route=ROUTE))
    assert found[0].startswith('teacher.route.to: train has rows for which no teacher is named: "z"')
    plan_of(tmp_path, teacher=ensemble(members, route={**ROUTE, "otherwise": "one"}))
    (found,) = problems_of(
        tmp_path, teacher=ensemble(members, route={**ROUTE, "otherwise": "one"}), task={"slice_by": "label"}
    )
    assert found.startswith('task.slice_by: "label", but rows are routed by "topic"')


def test_teachers_that_are_asked_in_every_step_read_alike(tmp_path: Path) -> None:
    members = classifiers(tmp_path)
    file = tmp_path / "two" / "tokenizer.json"
    file.write_text(file.read_text().replace('"cat"', '"cow"'))
    plan_of(tmp_path, teacher=ensemble(members))
    (found,) = problems_of(tmp_path, teacher=ensemble(members, signals="live"))
    assert found.startswith('teacher.members.two.model: its tokenizer is not that of "one"')
    assert "Use teacher.signals: store" in found


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"members": {"one": {"model": "a"}}}, "members"),
        ({"route": {"by": "topic", "to": {"x": "one", "y": "tow"}}}, '`route` leads to "tow", which is none of'),
        ({"route": {"by": "topic", "to": {"x": "one"}}}, '`route` leads no row to "two"'),
        ({"route": ROUTE, "combine": "logits"}, "`combine` and `weight` are of mixtures"),
        ({"members": {"one": {"model": "a", "weight": 2.0}, "two": {"model": "b"}}, "route": ROUTE}, "of mixtures"),
        ({"members": {"one": {"model": "a", "weight": 0.0}, "two": {"model": "b"}}}, "weight"),
        ({"members": {"one": {"model": "a", "signals": "live"}, "two": {"model": "b"}}}, "signals"),
        ({"members": {"one": {"model": "a"}, "two": {"config": {"model_type": "bert"}}}}, "needs `fit: full`"),
    ],
)  # fmt: skip
def test_what_is_not_written_well(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    fields = {**ensemble({"one": {"model": "a"}, "two": {"model": "b"}}), **more}
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "r", "task": {"kind": "text_classification"}, "teacher": fields, "data": {"source": "org/rows"},
                "student": {"kind": "from_teacher", "layers": 1}, "objectives": [{"kind": "forward_kl"}],
            }
        )
    )  # fmt: skip
    with pytest.raises(RecipeError) as raised:
        load_recipe(tmp_path / "r.yaml")
    assert told in str(raised.value)


def test_weights_sum_to_one_and_a_member_is_a_teacher() -> None:
    spec = EnsembleSpec.model_validate(
        ensemble({"a": {"model": "x", "weight": 3.0, "licence": "mit"}, "b": {"model": "y"}}, batch_tokens=64)
    )
    assert spec.weights == (0.75, 0.25)
    assert spec.alone("a").model_dump(exclude_defaults=True) == {
        "kind": "local", "model": "x", "licence": "mit", "batch_tokens": 64,
    }  # fmt: skip


def languages(root: Path, tokens: tuple[str, ...] = TOKENS, **second: Any) -> dict[str, Any]:
    write_language_model(root / "one")
    write_language_model(root / "two", tokens, **second)
    write_language_model(root / "student", hidden_size=8)
    return {name: {"model": str(root / name), "licence": "mit"} for name in ("one", "two")}


def language_plan(root: Path, **changes: Any) -> Plan:
    return make_plan(recipe_from(language_recipe(root, **changes)), out=root)


def language_problems(root: Path, **changes: Any) -> list[str]:
    with pytest.raises(PlanError) as raised:
        language_plan(root, **changes)
    return [line.removeprefix("recipe  ") for line in raised.value.problems]


def test_language_models_with_one_tokenizer_are_joined(tmp_path: Path) -> None:
    members = languages(tmp_path)
    plan = language_plan(tmp_path, teacher=ensemble(members))
    assert plan.language["teachers"].startswith("2, mixed by their probabilities: each reads every row")
    assert plan.signals.mode == "live"
    one = language_plan(tmp_path, teacher={"kind": "local", **members["one"]})
    weights = [plan.estimates[1].value for plan in (plan, one)]
    assert weights[0] > weights[1]


def test_language_models_that_do_not_go_together(tmp_path: Path) -> None:
    members = languages(tmp_path, (*TOKENS[:4], "Ġfox", *TOKENS[5:]))
    (found,) = language_problems(tmp_path, teacher=ensemble(members))
    assert found.startswith('teacher.members.two.model: its tokenizer is not that of "one": id 4 is')
    assert "use models with one tokenizer, or distil from one of them (teacher.kind: local)" in found


def test_another_template_or_context_of_a_member_is_told(tmp_path: Path) -> None:
    members = languages(tmp_path, template=CHATML + "!", max_position_embeddings=40)
    found = language_problems(tmp_path, teacher=ensemble(members))
    assert found == [
        'task.max_length: 48 tokens are more than the 40 positions of "two". Set at most 40.',
    ]  # fmt: skip
    task = {"kind": "causal_lm", "prompt": "q", "text": "a", "max_length": 40}
    plan = language_plan(tmp_path, teacher=ensemble(members), task=task)
    assert any('it has another chat template than "one"' in warning for warning in plan.warnings)


def test_teachers_that_are_mixed_write_nothing(tmp_path: Path) -> None:
    members = languages(tmp_path)
    (tmp_path / "more.jsonl").write_text('{"q": "why?"}')
    changes = {
        "task": {"kind": "causal_lm", "prompt": "q", "text": "a", "max_length": 48, "metric": "exact_match"},
        "data": {
            "source": str(tmp_path / "rows"),
            "transfer": [{"kind": "unlabelled", "source": str(tmp_path / "more.jsonl")}],
        },
    }
    found = language_problems(tmp_path, teacher=ensemble(members), **changes)
    assert [line.split(":")[0] for line in found] == ["task.metric", "data.transfer[0]"]
    served = {"source": "vllm", "url": "http://localhost:8000/v1", "model": "served", "fraction": 0.5}
    found = language_problems(tmp_path, teacher=ensemble(members), rollouts=served)
    assert found[0].startswith("rollouts.source: a served teacher is one model")


def test_what_the_docs_show_is_valid() -> None:
    text = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text(encoding="utf-8")
    shown = [
        EnsembleSpec.model_validate(yaml.safe_load(part.split("```")[0])["teacher"])
        for part in text.split("```yaml\n")[1:]
    ]
    assert [spec.route is None for spec in shown] == [True, False]
    fields = set(ModelSpec.model_fields)
    assert all(f"`{name}`" in text for name in fields)
