"""A run from top to bottom: what it leaves behind, what a rerun skips, and what a killed one comes to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import run_parts
from run_parts import LABELS, make, recipe, write_data, write_teacher
from safetensors.numpy import load_file
from transformers import pipeline

import attar
from attar.errors import PlanError, PolicyError, StorageError, StoreError
from attar.facts import RunFacts
from attar.plan import make_plan
from attar.recipe.load import load_recipe, recipe_from
from attar.report.schema import run_schema
from attar.run import label_only

EXPORTS = [{"kind": "onnx", "precision": "fp32"}]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, RunFacts]:
    root = tmp_path_factory.mktemp("whole")
    path = make(root, export=EXPORTS, report={"bootstrap": 200})
    out = root / "out"
    return path, out, attar.distill(path, out)


def test_the_folder_is_laid_out_as_promised(finished: tuple[Path, Path, RunFacts]) -> None:
    _, out, facts = finished
    for name in ("recipe.yaml", "run.json", "report.html", "log.jsonl", "student/config.json", "student/README.md",
                 "student/model.safetensors", "control/model.safetensors", "export/onnx-fp32/model.onnx", "store",
                 "checkpoints"):  # fmt: skip
        assert (out / name).exists(), name
    record = json.loads((out / "run.json").read_text())
    jsonschema.validate(record, run_schema())
    assert record["student"]["params"] < record["teacher"]["params"]
    assert set(record["quality"]) >= {"metric", "teacher", "student", "control"}
    assert set(record["retention"]) >= {"value", "lo", "hi", "n"}
    assert set(record["kd_gain"]) >= {"value", "lo", "hi", "n"}
    assert record["artifacts"][0]["parity"]["agreement"] == 1.0
    assert record["artifacts"][0]["latency_ms"] > 0
    names = [stage["name"] for stage in record["stages"]]
    assert names == ["data", "teacher", "signals", "0/student", "0/control", "0/answers", "0/onnx-fp32", "measure"]
    assert all(stage["seconds"] > 0 and not stage["cached"] for stage in record["stages"])
    assert (out / "report.html").stat().st_size < 500_000
    assert facts.status == "complete"


def test_the_student_loads_without_attar(finished: tuple[Path, Path, RunFacts]) -> None:
    _, out, _ = finished
    answer = pipeline("text-classification", str(out / "student"))("my card number 3 is lost today")
    assert answer[0]["label"] in LABELS


def test_a_second_run_does_nothing_and_says_the_same(finished: tuple[Path, Path, RunFacts]) -> None:
    path, out, facts = finished
    stamp = (out / "student" / "model.safetensors").stat().st_mtime_ns
    again = attar.distill(path, out)
    assert all(stage.cached for stage in again.stages)
    assert (out / "student" / "model.safetensors").stat().st_mtime_ns == stamp
    assert again.quality == facts.quality
    assert again.artifacts == facts.artifacts


def test_a_changed_report_section_trains_nothing(finished: tuple[Path, Path, RunFacts]) -> None:
    path, out, _ = finished
    facts = attar.distill(path, out, overrides=["report.examples=false"])
    assert all(stage.cached for stage in facts.stages)
    assert facts.evaluation.examples == []
    assert "my card number" not in (out / "report.html").read_text()


@pytest.mark.parametrize("at", ["signals of", "step 20", "0/control …", "0/answers …"])
def test_a_killed_run_comes_to_the_same_weights(finished: tuple[Path, Path, RunFacts], tmp_path: Path, at: str) -> None:
    path, whole, _ = finished
    lean = {**json.loads(path.read_text()), "export": [], "report": {"bootstrap": 100, "latency": False}}
    path = tmp_path / "lean.yaml"
    path.write_text(json.dumps(lean))
    out = tmp_path / "out"
    folders = [str(Path(run_parts.__file__).parent), str(Path(run_parts.__file__).parents[1])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, run_parts.__file__, str(path), str(out), at]
    killed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    attar.distill(path, out)
    for role in ("student", "control"):
        ours, theirs = (load_file(place / role / "model.safetensors") for place in (out, whole))
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs), role


def test_a_store_made_apart_trains_the_same_student(finished: tuple[Path, Path, RunFacts], tmp_path: Path) -> None:
    path, _, _ = finished
    config = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    student = {"kind": "from_config", "config": {**config, "intermediate_size": 32}}
    fields = json.loads(path.read_text())
    report = {"bootstrap": 100, "latency": False}
    local = {**fields, "student": student, "export": [], "report": report}
    (tmp_path / "local.yaml").write_text(json.dumps(local))
    made = label_only(load_recipe(tmp_path / "local.yaml"), tmp_path / "labelled")
    store = shutil.move(made, tmp_path / "elsewhere" / "signals")  # as to another machine: the named folder alone
    shutil.rmtree(tmp_path / "labelled")
    stored = {**local, "teacher": {"kind": "stored", "path": str(store), "licence": "apache-2.0"}}
    (tmp_path / "stored.yaml").write_text(json.dumps(stored))
    one = attar.distill(tmp_path / "local.yaml", tmp_path / "one")
    two = attar.distill(tmp_path / "stored.yaml", tmp_path / "two")
    assert one.quality.student == two.quality.student
    ours, theirs = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("one", "two"))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert "signals" in {stage.name for stage in two.stages}
    shutil.move(store / "processor", tmp_path / "left behind")
    with pytest.raises(StoreError, match="processor: is missing"):
        attar.distill(tmp_path / "stored.yaml", tmp_path / "four")
    shard = next(store.glob("*.safetensors"))
    broken = bytearray(shard.read_bytes())
    broken[-3] ^= 1
    shard.write_bytes(broken)
    with pytest.raises(StoreError, match=shard.name):
        attar.distill(tmp_path / "stored.yaml", tmp_path / "three")


def test_labelling_covers_the_rows_to_train_on_where_a_run_would_ask_live(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    folder = str(write_teacher(tmp_path / "teacher"))
    teacher = {"kind": "local", "model": folder, "licence": "mit", "signals": "live"}
    training = {"max_steps": 4, "batch_size": 16, "evaluations": 1}
    fields = recipe(tmp_path, teacher=teacher, training=training, objectives=[{"kind": "forward_kl"}])
    store = label_only(recipe_from(fields), tmp_path / "labelled")
    shutil.rmtree(store / "processor")
    assert label_only(recipe_from(fields), tmp_path / "labelled") == store, "what was lost is made again"
    config = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    fields |= {
        "teacher": {"kind": "stored", "path": str(store), "licence": "mit"},
        "student": {"kind": "from_config", "config": {**config, "intermediate_size": 32}},
    }
    assert attar.distill(recipe_from(fields), tmp_path / "out").data.rows["transfer"] == 40


def test_states_of_every_token_are_asked_live(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    teacher = {"kind": "local", "model": str(write_teacher(tmp_path / "teacher")), "licence": "mit"}
    fields = recipe(
        tmp_path,
        teacher=teacher,
        student={"kind": "from_teacher", "layers": 1, "vocabulary": {"keep": "all"}},
        objectives=[{"kind": "forward_kl"}, {"kind": "hidden", "pool": "none"}],
        training={"max_steps": 6, "batch_size": 16, "evaluations": 1},
    )
    assert make_plan(recipe_from(fields)).signals.mode == "live"
    facts = attar.distill(recipe_from(fields), tmp_path / "out")
    assert facts.training["student"].curve[0]["term_hidden"] > 0
    with pytest.raises(PlanError, match="states of every token are not stored"):
        label_only(recipe_from(fields), tmp_path / "labelled")


def test_several_seeds_come_into_one_record(tmp_path: Path) -> None:
    path = make(tmp_path, training={"epochs": 2, "batch_size": 16, "evaluations": 1, "checkpoints": 1})
    facts = attar.distill(path, tmp_path / "out", seeds=2)
    assert [seed.seed for seed in facts.seeds] == [0, 1]
    assert facts.retention is not None
    assert facts.retention.seeds == 2
    assert (tmp_path / "out" / "student" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "seeds" / "1" / "control" / "model.safetensors").is_file()
    best = max(facts.seeds, key=lambda seed: seed.validation or 0.0)
    for name in ("log.jsonl", "checkpoints/answers.npz", "student/model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "out" / best.path / name).read_bytes(), name
    assert (tmp_path / "out" / "checkpoints" / "student").is_dir()
    students = [load_file(tmp_path / "out" / "seeds" / str(k) / "student" / "model.safetensors") for k in (0, 1)]
    assert any(not np.array_equal(students[0][n], students[1][n]) for n in students[0])


def test_without_labels_agreement_is_the_metric(tmp_path: Path) -> None:
    write_data(tmp_path / "data", labelled=False)
    write_teacher(tmp_path / "teacher")
    teacher = {"kind": "local", "model": str(tmp_path / "teacher"), "licence": "mit"}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe(tmp_path, teacher=teacher)))
    facts = attar.distill(tmp_path / "r.yaml", tmp_path / "out")
    assert facts.quality.metric == "agreement"
    assert facts.control is None
    assert facts.kd_gain is None
    assert 0 <= facts.evaluation.agreement.value <= 1
    assert "no control" in (tmp_path / "out" / "report.html").read_text()


def test_a_missed_budget_is_told_in_the_record(finished: tuple[Path, Path, RunFacts]) -> None:
    path, out, _ = finished
    facts = attar.distill(path, out, overrides=["budget.max_latency_ms=0.00001"])
    assert facts.status == "budget_missed"
    assert [line.met for line in facts.budget] == [False]
    assert all(stage.cached for stage in facts.stages)


def test_what_was_foretold_of_a_budget_is_not_told_once_it_is_decided(finished: tuple[Path, Path, RunFacts]) -> None:
    path, out, first = finished
    budget = f"budget.max_params={first.student.params - 1}"
    (foretold,) = make_plan(load_recipe(path, [budget])).foretold
    assert foretold.startswith("budget.max_params: the student is expected to have")
    said: list[str] = []
    facts = attar.distill(path, out, overrides=[budget], say=said.append)
    assert [line.met for line in facts.budget] == [False]
    assert f"WARNING: {foretold}" in said
    assert not [warning for warning in facts.warnings if "budget" in warning]


def test_an_unknown_teacher_stops_before_any_work(tmp_path: Path) -> None:
    path = make(tmp_path)
    fields = json.loads(path.read_text())
    del fields["teacher"]["licence"]
    path.write_text(json.dumps(fields))
    with pytest.raises(PolicyError, match="licence"):
        attar.distill(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_read_only_place_and_a_busy_folder_are_named(tmp_path: Path) -> None:
    path = make(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"):
        attar.distill(path, tmp_path / "file" / "out")
    from attar.stages import locked

    with locked(tmp_path / "busy"), pytest.raises(StorageError, match="another attar works"):
        attar.distill(path, tmp_path / "busy")


def test_labels_that_the_teacher_does_not_know(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    write_teacher(tmp_path / "teacher", ["cards", "fees", "transfers"])
    teacher = {"kind": "local", "model": str(tmp_path / "teacher"), "licence": "mit"}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe(tmp_path, teacher=teacher)))
    with pytest.raises(PlanError, match=r"cards|label_map"):
        attar.distill(tmp_path / "r.yaml", tmp_path / "out")
