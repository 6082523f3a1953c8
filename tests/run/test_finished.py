"""A finished run's folder: its record speaks of the files beside it, and a refused export spoils nothing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from run_parts import make
from safetensors.numpy import load_file

import attar
from attar.cli import evaluate, main
from attar.errors import AttarError, ExportError, ParityError
from attar.facts import RunFacts
from attar.finished import answer, export_again, score_on
from attar.report.load import load_run, load_whole

FP32 = {"kind": "onnx", "precision": "fp32"}
REFUSED = {"kind": "onnx", "precision": "int8", "max_abs": 1e-9}
SHORT = {"epochs": 2, "batch_size": 16, "learning_rate": 0.005, "evaluations": 1, "checkpoints": 2}
TEXTS = ["my card number 3 is lost today"]


class Stopped(Exception):
    """Stands for a run that ends in the middle."""


def stop_at(line: str):
    def say(told: str) -> None:
        if line in told:
            raise Stopped

    return say


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe and its finished run, never changed."""
    root = tmp_path_factory.mktemp("made")
    path = make(root, training=SHORT, export=[FP32])
    attar.distill(path, root / "out")
    return path, root / "out"


@pytest.fixture
def finished(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same, as a copy."""
    return made[0], shutil.copytree(made[1], tmp_path / "out")


def weights(out: Path) -> dict[str, np.ndarray]:
    return load_file(out / "student" / "model.safetensors")


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_a_refused_export_is_recorded_and_all_else_is_finished(finished: tuple[Path, Path]) -> None:
    path, out = finished
    fields = {**json.loads(path.read_text()), "export": [REFUSED, FP32]}
    (out / "r.yaml").write_text(json.dumps(fields))
    with pytest.raises(ParityError, match=r"int8: the file does not answer.*\n.*All else is finished: .*report.html"):
        attar.distill(out / "r.yaml", out)
    facts = load_whole(out)
    assert [(one.precision, one.failed, one.seed) for one in facts.refused] == [("int8", "parity", 0)]
    assert [a.precision for a in facts.artifacts] == ["fp32"]
    assert facts.artifacts[0].quality is not None
    for name in ("report.html", "student/README.md"):
        assert "does not answer like the checkpoint" in (out / name).read_text(), name
    assert sorted(place.name for place in (out / "export").iterdir()) == ["onnx-fp32", "onnx-int8.refused"]


def test_the_command_line_ends_with_the_code_of_a_refused_export(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = finished
    (out / "r.yaml").write_text(json.dumps({**json.loads(path.read_text()), "export": [REFUSED, FP32]}))
    for arguments, code in ((["distill", str(out / "r.yaml"), "--out", str(out)], 8), (["export", str(out)], 8),
                            (["export", str(out), "--precision", "fp32"], 0)):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["attar", *arguments])
        if code == 0:
            main()
        else:
            with pytest.raises(SystemExit) as stopped:
                main()
            assert stopped.value.code == code, arguments
    told = capsys.readouterr()
    assert "does not answer like the checkpoint" in told.err
    assert "All else is finished" in told.err
    assert "onnx-fp32: " in told.out


def test_an_export_that_failed_is_no_matter_to_the_next(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = finished
    real = attar.exports.export_and_check

    def int8_fails(*given: object, **named: object) -> object:
        if "int8" in str(given[1]):
            raise ExportError("int8 cannot be made here")
        return real(*given, **named)

    monkeypatch.setattr(attar.exports, "export_and_check", int8_fails)
    with pytest.raises(ExportError, match="int8 cannot be made here"):
        export_again(out, "onnx", "int8", say=lambda _: None)
    assert [a.precision for a in load_whole(out).artifacts] == ["fp32"]
    shutil.rmtree(out / "export" / "onnx-fp32")
    again = export_again(out, "onnx", "fp32", say=lambda _: None)
    assert [a.precision for a in again.artifacts] == ["fp32"]
    monkeypatch.undo()
    facts = export_again(out, "onnx", "int8", say=lambda _: None)
    assert [a.precision for a in facts.artifacts] == ["fp32", "int8"]
    assert facts.refused == []


def test_an_export_that_is_cut_short_leaves_the_run_as_it_was(finished: tuple[Path, Path]) -> None:
    _, out = finished
    before = {name: (out / name).read_bytes() for name in ("recipe.yaml", "run.json", "report.html")}
    with pytest.raises(Stopped):
        export_again(out, "onnx", "int8", say=stop_at("0/onnx-int8 …"))
    assert {name: (out / name).read_bytes() for name in before} == before
    assert load_whole(out).artifacts


def test_no_old_proof_stands_beside_a_new_student(finished: tuple[Path, Path]) -> None:
    path, out = finished
    old = weights(out)
    with pytest.raises(Stopped):
        attar.distill(path, out, overrides=["training.learning_rate=0.001"], say=stop_at("0/control …"))
    assert not same(old, weights(out))
    for name in ("run.json", "recipe.yaml", "report.html", "student/README.md"):
        assert not (out / name).exists(), name
    with pytest.raises(AttarError, match="did its run finish"):
        answer(out, TEXTS)
    facts = attar.distill(path, out, overrides=["training.learning_rate=0.001"])
    assert load_whole(out) == facts
    assert facts.recipe["training"]["learning_rate"] == 0.001


def test_a_run_that_stops_before_the_student_changes_keeps_its_proof(finished: tuple[Path, Path]) -> None:
    path, out = finished
    with pytest.raises(Stopped):
        attar.distill(path, out, overrides=["training.learning_rate=0.001"], say=stop_at("0/student …"))
    assert answer(out, TEXTS)
    assert all(stage.cached for stage in attar.distill(path, out).stages)


def test_what_is_no_longer_asked_for_goes(finished: tuple[Path, Path]) -> None:
    path, out = finished
    facts = attar.distill(path, out, overrides=["training.control=false", "export=[]"])
    assert facts.control is None
    assert not (out / "control").exists()
    assert list((out / "export").iterdir()) == []


@pytest.mark.parametrize("name", ["student/model.safetensors", "student/config.json", "student/tokenizer.json"])
def test_a_student_that_the_record_does_not_speak_of_is_not_asked(finished: tuple[Path, Path], name: str) -> None:
    path, out = finished
    (out / name).write_bytes((out / name).read_bytes() + b" ")
    data = str(path.parent / "data")
    for use in (
        lambda: answer(out, TEXTS),
        lambda: score_on(out, data),
        lambda: evaluate(out / "run.json", None, None),
    ):
        with pytest.raises(AttarError, match=rf"not as run.json has it: {name}"):
            use()


def test_an_export_that_the_record_does_not_speak_of_is_not_asked(finished: tuple[Path, Path]) -> None:
    _, out = finished
    assert answer(out, TEXTS, "onnx-fp32")
    file = out / "export" / "onnx-fp32" / "model.onnx"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(AttarError, match=r"onnx-fp32: its model is not as run.json has it"):
        answer(out, TEXTS, "onnx-fp32")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_rerun_brings_back_a_lost_file_of_the_student(finished: tuple[Path, Path], name: str) -> None:
    path, out = finished
    before, whole = weights(out), load_run(out)
    (out / "student" / name).unlink()
    facts: RunFacts = attar.distill(path, out)
    assert (out / "student" / name).is_file()
    assert same(before, weights(out))
    assert facts.files == whole.files
    assert facts.quality == whole.quality
