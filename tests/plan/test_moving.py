"""What the plan and a recipe's errors say of schedules, labelled and batch objectives, lists and balance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attar.errors import PlanError, RecipeError
from attar.plan import make_plan
from attar.plan.objectives import describe
from attar.recipe.load import dump_recipe, load_recipe, recipe_from
from plan.samples import merged, plan_of, problems_of, recipe_data, write_rows
from recipe.sample import SAMPLE

MOVING = {"kind": "forward_kl", "weight": {"start": 0, "end": 2, "shape": "cosine", "until": 0.25},
          "temperature": {"start": 4, "end": 1}}  # fmt: skip


def warnings_of(tmp_path: Path, *objectives: dict[str, Any], **changes: Any) -> list[str]:
    return [str(w) for w in plan_of(tmp_path, objectives=list(objectives), **changes).warnings]


def test_a_schedule_is_told_in_words_and_reads_back(tmp_path: Path) -> None:
    told = "forward_kl  weight 0 to 2 (cosine, over the first 25 %), temperature 4 to 1 (linear)"
    assert plan_of(tmp_path, objectives=[MOVING]).objectives == (told,)
    recipe = recipe_from(merged(recipe_data(tmp_path), objectives=[MOVING]))
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    again = load_recipe(tmp_path / "again.yaml")
    assert again == recipe
    assert again.hash == recipe.hash
    assert describe(again.objectives[0]) == told
    overridden = load_recipe(tmp_path / "again.yaml", ["objectives.0.weight.end=3", "objectives[0].temperature=2"])
    assert describe(overridden.objectives[0]).startswith(
        "forward_kl  weight 0 to 3 (cosine, over the first 25 %), temp"
    )


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("weight: -1", "weight: -1 is not allowed. Allowed: a number of at least 0 or a section with start, end,"),
        ("weight: {start: 1}", "weight.end: is missing."),
        ("weight: {start: 1, end: -2}", "weight.end: -2 is not allowed. Allowed: a number of at least 0."),
        ("temperature: {start: 0, end: 1}", "temperature.start: 0 is not allowed. Allowed: a number above 0."),
        ("temperature: {start: 2, end: 1, until: 0}", "temperature.until: 0 is not allowed."),
        ("temperature: {start: 2, end: 1, shpe: linear}", 'shpe: there is no such field. Did you mean "shape"?'),
        ("temperature: {start: 2, end: 1, shape: lineal}", 'Did you mean "linear"?'),
    ],
)  # fmt: skip
def test_a_wrong_schedule_is_named(tmp_path: Path, written: str, told: str) -> None:
    (tmp_path / "recipe.yaml").write_text(SAMPLE.replace("temperature: 2.0", written))
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "recipe.yaml")
    (problem,) = caught.value.problems
    assert "recipe.yaml:18" in problem
    assert f"objectives[0].{told}" in problem or told in problem


def test_targets_that_move_backwards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="`end` must not be below `start`"):
        plan_of(tmp_path, objectives=[{"kind": "taid", "start": 0.8, "end": 0.4}])


def test_weights_and_temperatures_are_judged_at_their_largest(tmp_path: Path) -> None:
    never = {"start": 0, "end": 0}
    (found,) = problems_of(tmp_path, objectives=[{**MOVING, "weight": never}])
    assert "every weight is 0" in found
    told = warnings_of(tmp_path, {**MOVING, "temperature": {"start": 1, "end": 30}}, {"kind": "jsd", "weight": never})
    assert any("at 30 both sides are nearly uniform" in warning for warning in told)
    assert any("jsd has weight 0" in warning for warning in told)
    assert not any("forward_kl has weight 0" in warning for warning in told)


def test_labelled_objectives_need_labels(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.table({"text": ["red cats", "blue cats", "green"]}), rows / f"{split}.parquet")
    mine = {"kind": "python", "name": "mine", "code": "0123456789abcdef", "labels": True}
    fields = merged(recipe_data(tmp_path), objectives=[{"kind": "dkd"}, {"kind": "forward_kl"}, mine])
    with pytest.raises(PlanError) as caught:
        make_plan(recipe_from(fields), python_objects=True, out=tmp_path)
    assert [line.split(": ")[0].split("  ")[1] for line in caught.value.problems] == [
        "objectives[0].kind",
        "objectives[2].kind",
    ]
    assert all("needs labels, and the data has none" in line for line in caught.value.problems)


def test_labelled_objectives_need_one_label_a_row(tmp_path: Path) -> None:
    objectives = [{"kind": "dkd"}, {"kind": "ofa"}, {"kind": "forward_kl"}]
    write_rows(tmp_path / "rows", [["a"], ["b"], ["a", "b"], []])
    objectives.append({"kind": "dist"})
    found = problems_of(tmp_path, task={"problem": "multi_label"}, objectives=objectives)
    assert [line.partition(": ")[0] for line in found] == [f"objectives[{at}].kind" for at in (0, 1, 3)]
    assert all("task.problem is multi_label" in line for line in found)


def test_objectives_that_say_little_here_are_warned_of(tmp_path: Path) -> None:
    told = warnings_of(tmp_path, {"kind": "dist"}, {"kind": "sparse_kl"}, {"kind": "sparse_reverse_kl", "k": 1})
    assert any("the correlation along a row is the sign" in warning for warning in told)
    assert any("64 of 2 outputs are listed: this is forward_kl." in warning for warning in told)
    assert any("1 of 2 outputs are listed: this is reverse_kl." in warning for warning in told)
    balanced = {"balance": "gradient_norm"}
    assert any("nothing to balance" in w for w in warnings_of(tmp_path, {"kind": "forward_kl"}, training=balanced))
    both = warnings_of(tmp_path, {"kind": "forward_kl"}, {"kind": "hard_labels"}, training=balanced)
    assert not any("balance" in warning for warning in both)
