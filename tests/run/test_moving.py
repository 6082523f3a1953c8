"""Whole runs whose objectives move and are balanced: what the record and the report say, and what the control is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_parts import make, recipe
from test_door import ROWS, TOKENIZER, TRAINING, bags
from torch import Tensor

import attar
from attar.objectives.own import OwnObjective
from attar.objectives.response import dkd
from attar.recipe.objectives import WeightSchedule

OBJECTIVES = [
    {"kind": "taid", "weight": {"start": 1, "end": 0.5}, "temperature": {"start": 4, "end": 1, "until": 0.5}},
    {"kind": "dkd"}, {"kind": "sampled_kl", "samples": 3}, {"kind": "dist", "weight": 0.5}, {"kind": "hidden"},
]  # fmt: skip


def test_a_run_is_balanced_and_its_control_is_not(tmp_path: Path) -> None:
    fields = recipe(tmp_path)
    training = {**fields["training"], "epochs": 1, "balance": "gradient_norm"}
    path = make(tmp_path, objectives=OBJECTIVES, training=training)
    out = tmp_path / "out"
    facts = attar.distill(path, out)
    found = facts.training["student"]
    assert set(found.balance) == {one["kind"] for one in OBJECTIVES}
    products = {name: one.norm * one.factor for name, one in found.balance.items()}
    assert products == pytest.approx(dict.fromkeys(products, products["taid"]))
    assert facts.training["control"].balance == {}
    assert found.curve[0]["temperature_taid"] == 4.0
    assert found.curve[0]["weight_taid"] == pytest.approx(found.balance["taid"].factor)
    assert {"progress_taid", "term_dist"} <= found.curve[-1].keys()
    assert "Gradients balanced" in (out / "report.html").read_text()
    line = json.loads((out / "log.jsonl").read_text().splitlines()[0])
    assert line["scheduled"].keys() == {"weight_taid", "temperature_taid", "progress_taid"}
    again = attar.distill(path, out, overrides=["training.balance=off"])
    assert {stage.name: stage.cached for stage in again.stages}["0/control"]
    assert not {stage.name: stage.cached for stage in again.stages}["0/student"]
    assert again.training["student"].balance == {}


def sure_of_the_label(student: Tensor, teacher: Tensor, labels: Tensor, progress: float) -> Tensor:
    return (1.0 - 0.5 * progress) * dkd(student, teacher, labels=labels, beta=1.0)


def test_a_function_that_reads_labels_and_progress_goes_through_the_door(tmp_path: Path) -> None:
    teacher, student = bags()
    mine = OwnObjective(sure_of_the_label, weight=WeightSchedule(start=0.0, end=1.0))
    facts = attar.distill_models(
        teacher, student, ROWS, [mine, {"kind": "forward_kl", "weight": {"start": 1, "end": 0}}], processor=TOKENIZER,
        out=tmp_path, reason="my own model", training=TRAINING, report={"bootstrap": 100, "latency": False},
    )  # fmt: skip
    (recorded, _) = facts.recipe["objectives"]
    assert recorded["labels"] is True
    assert recorded["weight"] == {"start": 0.0, "end": 1.0, "shape": "linear", "until": 1.0}
    assert facts.training["student"].curve[0]["weight_sure_of_the_label"] == 0.0
    assert facts.training["student"].curve[0]["term_sure_of_the_label"] > 0
