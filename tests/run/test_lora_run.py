"""A whole run with a LoRA student: what is handed over are plain weights, and the matrices beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from language_parts import make
from run_parts import make as make_classifier
from transformers import AutoModelForCausalLM

import attar
from attar.errors import PlanError

STUDENT = {"kind": "from_teacher", "layers": 2, "vocabulary": {"keep": "all"}, "lora": {"rank": 4, "alpha": 16.0}}
TRAINING = {"epochs": 3, "batch_size": 8, "learning_rate": 0.02, "evaluations": 2}


def test_a_student_with_lora_is_distilled_merged_and_exported(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    export = [{"kind": "gguf", "precision": "f16"}]
    facts = attar.distill(make(tmp_path, student=STUDENT, training=TRAINING, export=export), tmp_path / "out")
    for role in ("student", "control"):
        assert facts.training[role].initial["lora_parameters"] == 2 * 4 * (2 * 64 + 2 * 48 + 3 * 96)
        assert (tmp_path / "out" / role / "adapter" / "adapter_model.safetensors").is_file()
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / role)
        assert not any("lora" in name for name in model.state_dict())
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher")
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "student")
    assert torch.equal(student.get_input_embeddings().weight, teacher.get_input_embeddings().weight)
    curve = [point["loss"] for point in facts.training["student"].curve if "loss" in point]
    assert curve[-1] < curve[0]
    assert facts.artifacts[0].parity.agreement > 0.97
    assert "student/adapter/adapter_model.safetensors" in facts.files


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"student": {**STUDENT, "init": "random"}}, "student.lora: it freezes weights that init: random draws"),
        ({"training": {**TRAINING, "control_random": True}}, "control_random: student.lora freezes the weights"),
        ({"training": {**TRAINING, "parallel": "fsdp", "precision": "fp16"}}, '"fp16" does not go with'),
    ],
)
def test_what_does_not_fit_is_told_before_work(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(PlanError, match=told):
        attar.distill(make(tmp_path, **{"student": STUDENT, **changes}), tmp_path / "out")


def test_a_classifier_needs_its_head(tmp_path: Path) -> None:
    path = make_classifier(tmp_path, student={"kind": "from_teacher", "layers": 1, "lora": {}})
    with pytest.raises(PlanError, match=r"lora: it freezes the head, which a student of task.kind: text_class"):
        attar.distill(path, tmp_path / "out")


def test_without_peft_the_plan_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    plain = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "peft" else plain(name, *a))
    path = make(tmp_path, student=STUDENT)
    assert json.loads(path.read_text())["student"]["lora"]
    with pytest.raises(PlanError, match=r'student.lora: .*pip install "attar\[lora\]"'):
        attar.distill(path, tmp_path / "out")
