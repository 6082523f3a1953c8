"""Whole runs with objectives on what models hold inside: from the command line and from Python, images and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_parts import recipe, write_data, write_teacher
from safetensors.numpy import load_file
from typer.testing import CliRunner

import attar
from attar.cli import app
from attar.errors import PlanError
from attar.facts import RunFacts
from attar.plan import make_plan
from attar.recipe.load import load_recipe, recipe_from
from attar.run import label_only

RESNET = {"model_type": "resnet", "layer_type": "basic", "downsample_in_first_stage": False}
LEAN = {"bootstrap": 100, "latency": False}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32}  # fmt: skip
SHORT = {"epochs": 1, "batch_size": 16, "evaluations": 1, "control": False}


def digits(*objectives: dict[str, Any], **training: Any) -> dict[str, Any]:
    return {
        "name": "digits",
        "task": {"kind": "image_classification", "image_size": 8},
        "teacher": {
            "kind": "local", "fit": "full", "fitting": {"epochs": 1, "batch_size": 128, "learning_rate": 0.003},
            "config": {**RESNET, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        },
        "data": {"source": "digits", "licence": "cc-by-4.0"},
        "student": {"kind": "from_config",
                    "config": {**RESNET, "embedding_size": 6, "hidden_sizes": [6, 10], "depths": [1, 1]}},
        "objectives": [{"kind": "forward_kl", "temperature": 2.0}, *objectives],
        "training": {**SHORT, "batch_size": 64, "learning_rate": 0.003, **training},
        "report": LEAN,
    }  # fmt: skip


def text(root: Path, *objectives: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A student of two layers and 16 units beside the teacher's four and 32, with the teacher's tokenizer."""
    teacher = {"kind": "local", "model": str(root / "teacher"), "licence": "apache-2.0", "fit": "none"}
    sections = {
        "teacher": teacher,
        "data": {"source": str(root / "data")},
        "student": {"kind": "from_config", "config": BERT, "vocabulary": {"keep": "all"}},
        "objectives": [{"kind": "forward_kl"}, *objectives],
        "training": SHORT,
        "report": LEAN,
        **changes,
    }
    return recipe(root, **sections)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("inside")
    write_data(place / "data")
    write_teacher(place / "teacher", layers=4)
    return place


def write(path: Path, fields: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path


def same_student(one: Path, two: Path) -> bool:
    ours, theirs = (load_file(place / "student" / "model.safetensors") for place in (one, two))
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_maps_of_digits_from_the_command_line(tmp_path: Path) -> None:
    fields = digits({"kind": "attention_transfer", "weight": 100}, {"kind": "similarity_preserving", "pool": "map"})
    path, out = write(tmp_path / "digits.yaml", {**fields, "export": [{"kind": "onnx"}]}), tmp_path / "out"
    checked = CliRunner().invoke(app, ["check", str(path)])
    assert checked.exit_code == 0, checked.output
    told = " ".join(checked.output.split())
    assert "signals live" in told
    assert "hidden:1:map, hidden:2:map" in told
    assert "sees the 64 rows of one micro-batch, holds 4,096 numbers a side" in told
    done = CliRunner().invoke(app, ["distill", str(path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    facts = RunFacts.model_validate_json((out / "run.json").read_text())
    student = facts.training["student"]
    assert {f"term_{kind}" for kind in ("attention_transfer", "similarity_preserving")} <= student.curve[0].keys()
    assert student.layers["attention_transfer"].model_dump() == {
        "how": "uniform", "pairs": [(1, 1), (2, 2)], "similarities": [], "rows": None,
    }  # fmt: skip
    assert facts.artifacts[0].parity.agreement == 1.0
    assert not any("parts" in name or "learned" in name for name in load_file(out / "student" / "model.safetensors"))
    assert "student 1 with 1, 2 with 2 of the teacher" in (out / "report.html").read_text()


def test_relations_of_tokens_with_layers_chosen_by_cka(root: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "text.yaml", text(root, {"kind": "attention_relations", "layers": "cka"}))
    facts = attar.distill(path, tmp_path / "out")
    found = facts.training["student"].layers["attention_relations"]
    assert (found.how, found.rows) == ("cka", facts.data.rows["train"])
    (one, first), (two, second) = found.pairs
    assert (one, two) == (1, 2)
    assert 1 <= first < second <= 4
    assert all(0 < similarity <= 1 for similarity in found.similarities)
    assert [stage.name for stage in facts.stages][:3] == ["data", "layers", "signals"]
    assert "linear CKA" in (tmp_path / "out" / "report.html").read_text()
    again = attar.distill(path, tmp_path / "out")
    assert all(stage.cached for stage in again.stages)
    (tmp_path / "out" / "store" / "stages" / "layers.json").unlink()  # found anew, it is the same
    third = attar.distill(path, tmp_path / "out")
    assert third.training["student"].layers["attention_relations"] == found
    assert next(stage for stage in third.stages if stage.name == "0/student").cached


def test_the_layers_that_cka_chose_are_what_is_stored(root: Path, tmp_path: Path) -> None:
    wanted = ({"kind": "cka", "layers": "cka", "pool": "first"}, {"kind": "hidden", "layers": "cka"})
    fields = text(root, *wanted, training={**SHORT, "seed": 3})
    assert make_plan(recipe_from(fields)).signals.needed == ("logits", "hidden:cka:first", "hidden:cka:mean")
    path = write(tmp_path / "text.yaml", fields)
    one = attar.distill(path, tmp_path / "one", seeds=2)
    layers = one.training["student"].layers
    offered = {*(f"hidden:{t}:first" for _, t in layers["cka"].pairs),
               *(f"hidden:{t}:mean" for _, t in layers["hidden"].pairs)}  # fmt: skip
    store = label_only(load_recipe(path), tmp_path / "labelled")
    assert set(json.loads((store / "manifest.json").read_text())["offers"]) == {"logits", *offered}
    stored = {**fields, "teacher": {"kind": "stored", "path": str(store), "licence": "apache-2.0"}}
    two = attar.distill(write(tmp_path / "stored.yaml", stored), tmp_path / "two")
    assert two.training["student"].layers == layers
    assert same_student(tmp_path / "one" / "seeds" / "3", tmp_path / "two")


def test_what_does_not_fit_is_told_before_any_work(root: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "text.yaml", text(root, {"kind": "review_kd"}, {"kind": "attention_relations", "heads": 3}))
    with pytest.raises(PlanError) as error:
        attar.distill(path, tmp_path / "out")
    first, *heads = error.value.problems
    assert "objectives[1].kind: feature maps are of images, but the task is on texts" in first
    assert len(heads) == 2
    assert "objectives[2].heads: 3 relation heads do not divide the teacher's width 32" in heads[0]
