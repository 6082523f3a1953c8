"""Whole runs of language models at tiny size: a Llama of a few kilobytes teaches a smaller one, seconds on one core."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from language_parts import STUDENT, make
from transformers import LlamaForCausalLM

import attar
from attar.bench.measure import Latencies, Subject
from attar.bench.protocol import Load
from attar.bench.worker import prepare, read_inputs
from attar.errors import ParityError, PlanError
from attar.export.gguf import write_gguf
from attar.facts import Measurement
from attar.finished import answer, score_on
from attar.recipe.task import CausalLMSpec
from attar.tasks.causal_lm import CausalLM
from tiny_language import TEXTS, save_language_model, tiny_bpe, tiny_llama


def test_a_language_model_is_distilled_judged_and_reported(tmp_path: Path) -> None:
    path = make(tmp_path, export=[{"kind": "gguf", "precision": "q8_0"}])
    facts = attar.distill(path, tmp_path / "out")
    assert facts.quality.metric == "perplexity"
    own, control = facts.quality.student, facts.quality.control
    assert own is not None
    assert control is not None
    assert facts.quality.teacher is not None
    assert facts.retention is not None
    assert facts.retention.value == pytest.approx(facts.quality.teacher / own)
    assert facts.kd_gain is not None
    assert facts.kd_gain.value == pytest.approx(control - own)
    assert 0 <= facts.evaluation.agreement.value <= 1
    curve = [point["loss"] for point in facts.training["student"].curve if "loss" in point]
    assert curve[-1] < curve[0]
    assert facts.training["student"].counted == "tokens"
    (file,) = facts.artifacts
    assert file.parity.agreement > 0.97
    assert file.quality == pytest.approx(own, rel=0.02)
    assert file.retention is not None
    assert (
        file.bytes
        == (tmp_path / "out" / file.path / "model.gguf").stat().st_size
        + (tmp_path / "out" / file.path / "attar.json").stat().st_size
    )
    told = [answer(tmp_path / "out", ["the cat"], artifact) for artifact in (None, "gguf-q8_0")]
    assert told[0] == told[1]
    report = (tmp_path / "out" / "report.html").read_text()
    assert "perplexity" in report
    assert "tokens a second" in report
    assert "text-generation" in (tmp_path / "out" / "student" / "README.md").read_text()
    again = attar.distill(tmp_path / "recipe.yaml", tmp_path / "out")
    assert all(stage.cached for stage in again.stages if stage.name not in {"data"})


def one_call(subjects: dict[str, Subject]) -> Latencies:
    """In the place of the measuring processes: each file takes what it would be measured with, once."""
    found = Latencies()
    for name, subject in subjects.items():
        if subject.kind == "onnx":
            with TemporaryDirectory() as folder:
                file = Path(folder) / "inputs.npz"
                np.savez(file, **{key: np.asarray(part) for key, part in subject.inputs.items()})
                bind, runtime = prepare(Load(kind="onnx", path=subject.path, inputs=file, threads=1))()
                bind(read_inputs(file))()
            found.measured[name] = Measurement(value=1.0, unit="ms", n=1, lo=1.0, hi=1.0, method=runtime)
    return found


def test_an_onnx_decoder_is_exported_compared_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.certify.latency", one_call)
    export = [{"kind": "onnx", "precision": precision} for precision in ("fp32", "int8")]
    export.append({"kind": "onnx", "precision": "int4", "min_agreement": 0.5})
    files = {"fp32": "model", "int8": "model_quantized", "int4": "model_q4"}
    training = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "control": False}
    path = make(tmp_path, export=export, training=training, report={"bootstrap": 100, "latency": True})
    out = tmp_path / "out"
    facts = attar.distill(path, out)
    assert [one.precision for one in facts.artifacts] == list(files)
    own = facts.quality.student
    assert own is not None
    for one in facts.artifacts:
        folder = out / one.path
        assert (folder / "onnx" / f"{files[one.precision]}.onnx").is_file()
        assert {"config.json", "generation_config.json", "tokenizer.json", "attar.json"} <= {
            path.name for path in folder.iterdir()
        }
        sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        assert one.bytes + one.tokenizer_bytes == sum(sizes.values())
        assert one.tokenizer_bytes == sum(size for path, size in sizes.items() if path.name.startswith("tokenizer"))
        found = one.parity
        assert found.cached is not None
        assert found.written is not None
        assert found.written.prompts == 4
        assert found.agreement >= (found.bound_agreement or 1)
        assert one.quality == pytest.approx(own, rel={"fp32": 1e-4, "int8": 0.02, "int4": 0.5}[one.precision])
        assert one.latency is not None
        assert one.retention is not None
    first, *rest = facts.artifacts
    assert first.parity.max_abs < 1e-4
    assert first.parity.cached is not None
    assert first.parity.cached.max_abs < 1e-4
    assert first.parity.written is not None
    assert first.parity.written.same == 1
    assert first.parity.written.first_difference is None
    assert all(one.bytes < first.bytes for one in rest)
    told = [answer(out, ["the cat", "the old"], artifact) for artifact in (None, "onnx-fp32")]
    assert told[0] == told[1]
    assert isinstance(answer(out, ["the cat"], "onnx-int4")[0]["answers"][0]["text"], str)
    config = json.loads((out / rest[0].path / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": "q8"}
    assert "through the cache" in (out / "report.html").read_text()


def test_a_file_that_answers_otherwise_is_not_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrongly(model: LlamaForCausalLM, *args: Any, **options: Any) -> None:
        other = deepcopy(model)
        with torch.no_grad():
            other.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight.roll(7, 0))
        write_gguf(other, *args, **options)

    monkeypatch.setattr("attar.export.gguf_folder.write_gguf", wrongly)
    short = {"max_steps": 2, "batch_size": 8, "control": False}
    export = [{"kind": "gguf", "precision": "f16"}]
    with pytest.raises(ParityError, match="the same likeliest token"):
        attar.distill(make(tmp_path, training=short, export=export), tmp_path / "out")
    assert "min_agreement" in (tmp_path / "out" / "export" / "gguf-f16.refused" / "REFUSED.txt").read_text()
    assert (tmp_path / "out" / "report.html").is_file()


def test_perplexity_and_divergence_are_those_of_dense_logits(tmp_path: Path) -> None:
    """The oracle shares no code: dense logits in float64, token by token."""
    facts = attar.distill(
        make(tmp_path, training={"max_steps": 4, "batch_size": 8, "control": False}), tmp_path / "out"
    )
    task = CausalLM(CausalLMSpec(kind="causal_lm", max_length=32))
    tokenizer = task.load_processor(tmp_path / "teacher")
    models = {name: task.load_model(folder).double() for name, folder in
              (("teacher", tmp_path / "teacher"), ("student", tmp_path / "out" / "student"))}  # fmt: skip
    nll, kl, same, tokens = {"teacher": 0.0, "student": 0.0}, 0.0, 0, 0
    for line in (tmp_path / "rows" / "test.jsonl").read_text().splitlines():
        ids = torch.tensor([[*tokenizer(json.loads(line)["text"])["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            told = {name: model(ids).logits[0, :-1].log_softmax(-1) for name, model in models.items()}
        for name, rows in told.items():
            nll[name] -= float(rows.gather(1, ids[0, 1:, None]).sum())
        kl += float((told["teacher"].exp() * (told["teacher"] - told["student"])).sum())
        same += int((told["teacher"].argmax(-1) == told["student"].argmax(-1)).sum())
        tokens += ids.shape[1] - 1
    assert facts.quality.student == pytest.approx(math.exp(nll["student"] / tokens), rel=1e-4)
    assert facts.quality.teacher == pytest.approx(math.exp(nll["teacher"] / tokens), rel=1e-4)
    assert facts.evaluation.kl_to_teacher == pytest.approx(kl / tokens, rel=1e-3)
    assert facts.evaluation.agreement.value == pytest.approx(same / tokens)
    scored = score_on(tmp_path / "out", str(tmp_path / "rows"))
    assert scored["value"] == pytest.approx(facts.quality.student, rel=1e-4)
    (written,) = answer(tmp_path / "out", ["cat sees the"])
    assert isinstance(written["answers"][0]["text"], str)


def test_a_student_with_fewer_tokens_learns_from_chats(tmp_path: Path) -> None:
    student = {**STUDENT, "vocabulary": {"keep": "used"}}
    objectives = [{"kind": "reverse_kl", "weight": 0.7}, {"kind": "hard_labels", "weight": 0.3}]
    path = make(tmp_path, chat=True, student=student, objectives=objectives,
                task={"kind": "causal_lm", "prompt": "prompt", "max_length": 48})  # fmt: skip
    facts = attar.distill(path, tmp_path / "out")
    kept = facts.training["student"].initial
    assert kept["tokens_kept"] < kept["tokens_of_teacher"]
    assert facts.retention is not None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": {"kind": "local", "model": "TEACHER", "fit": "probe", "licence": "mit"}}, "fits classifiers"),
        ({"export": [{"kind": "onnx", "calibration_rows": 8}]}, "nothing is calibrated. Remove it"),
        ({"objectives": [{"kind": "dist"}]}, "whole columns of logits"),
        ({"task": {"kind": "causal_lm", "text": "txt"}}, 'no column "txt"'),
        ({"training": {"token_dropout": 0.1}}, "it changes the tokens that a language model is to tell"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_work(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = make(tmp_path, **changes)
    path.write_text(path.read_text().replace("TEACHER", str(tmp_path / "teacher")))
    with pytest.raises(PlanError, match=told):
        attar.distill(path, tmp_path / "out")


def test_a_student_of_other_tokens_is_refused(tmp_path: Path) -> None:
    other = tiny_bpe(["zebra quagga okapi"] * 4, size=300)
    save_language_model(tmp_path / "small", tiny_llama(other, layers=1), other)
    path = make(tmp_path, student={"kind": "pretrained", "model": str(tmp_path / "small"), "licence": "mit"})
    with pytest.raises(PlanError, match="unknown to the teacher's tokenizer"):
        attar.distill(path, tmp_path / "out")


@pytest.mark.parametrize("kind", ["uld", "aligned", "span_kl"])
def test_a_student_of_other_tokens_learns_where_both_meet(tmp_path: Path, kind: str) -> None:
    other = tiny_bpe([f"{text[4:9]} apple owls {text[::-1]}" for text in TEXTS], size=290)
    save_language_model(tmp_path / "small", tiny_llama(other, hidden=16, layers=1, seed=3), other)
    path = make(
        tmp_path,
        task={"kind": "causal_lm", "prompt": "prompt", "max_length": 48},
        student={"kind": "pretrained", "model": str(tmp_path / "small"), "licence": "mit"},
        objectives=[{"kind": kind}, {"kind": "hard_labels", "weight": 0.2}],
    )
    facts = attar.distill(path, tmp_path / "out")
    curve = [point["loss"] for point in facts.training["student"].curve if "loss" in point]
    assert curve[-1] < curve[0]
    assert facts.quality.student is not None
    assert facts.quality.control is not None
    assert facts.evaluation.agreement is None
    assert facts.evaluation.kl_to_teacher is None
    assert any("the student has another tokenizer" in note for note in facts.evaluation.notes)
    report = (tmp_path / "out" / "report.html").read_text()
    assert "no token could be compared one by one" in report
    assert len(json.loads((tmp_path / "out" / "student" / "tokenizer.json").read_text())["model"]["vocab"]) < 320
