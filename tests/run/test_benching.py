"""`attar bench` on a finished run: every model and file, the teacher through onnxruntime too, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from run_parts import make

import attar
from attar.bench_sides import REFERENCE
from attar.benching import bench
from attar.cli import main
from attar.errors import AttarError
from attar.facts import BenchFacts
from attar.handover import withdraw
from attar.hashing import sha256
from attar.report.bench import lines, render
from attar.report.load import load_run
from attar.report.schema import bench_schema
from report.test_html import Page

SHORT = {"epochs": 2, "batch_size": 16, "learning_rate": 0.005, "evaluations": 1, "checkpoints": 2}
FILE = "ONNX fp32"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    export = [{"kind": "onnx", "precision": "fp32"}]
    path = make(root, training=SHORT, export=export, report={"bootstrap": 100, "latency": False})
    attar.distill(path, root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def found(run: Path) -> BenchFacts:
    """By the command, as a user starts it."""
    command = [
        sys.executable,
        "-m",
        "attar",
        "bench",
        str(run),
        "--batch",
        "1,3",
        "--repeats",
        "4",
        "--seconds",
        "0.02",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "one row at a time, 1 thread, 4 interleaved repeats" in done.stdout
    assert "estimated" in done.stdout
    return BenchFacts.model_validate_json((run / "bench.json").read_bytes())


def test_every_model_is_measured_with_its_conditions(found: BenchFacts) -> None:
    assert [one.name for one in found.models] == ["teacher", REFERENCE, "control", "student", FILE]
    assert found.reference == REFERENCE
    assert found.threads == 1
    for one in found.models:
        assert [taken.batch for taken in one.batches] == [1, 3], one.notes
        assert one.bytes > 0
        assert one.quality is not None
        assert one.load_seconds is not None
        assert one.load_seconds > 0
        for taken in one.batches:
            assert (taken.latency.n, taken.latency.threads, taken.latency.unit) == (4, 1, "ms")
            assert taken.rows_per_second == pytest.approx(1000 * taken.batch / taken.latency.value)
            assert taken.energy.n == 4
            assert taken.energy.cpu_seconds > 0
            assert taken.tokens_per_second is None
            if one.name == found.reference:
                assert taken.faster is None
            else:
                assert taken.faster is not None
                assert taken.faster.lo <= taken.faster.value <= taken.faster.hi
        spared = {"student": "teacher", "file": REFERENCE}.get(one.role)
        assert (None if one.break_even is None else one.break_even.instead_of) == spared
    runtimes = {one.name: one.runtime for one in found.models}
    assert runtimes["teacher"].startswith("torch")
    assert runtimes[REFERENCE].startswith("onnxruntime")


def test_the_record_fulfils_its_schema_and_speaks_of_its_run(run: Path, found: BenchFacts) -> None:
    Draft202012Validator.check_schema(bench_schema())
    Draft202012Validator(bench_schema()).validate(json.loads((run / "bench.json").read_text()))
    assert found.record == sha256(run / "run.json")


def test_the_page_shows_quality_against_latency(run: Path, found: BenchFacts) -> None:
    html = (run / "bench.html").read_text(encoding="utf-8")
    assert html == render(found)
    page = Page(html)
    drawing = next(attributes for name, attributes in page.elements if name == "svg")
    for one in found.models:
        assert one.name in (drawing["aria-label"] or "")
    assert not any(name == "script" for name, _ in page.elements)
    assert "\u00a0" not in "\n".join(lines(found))


def test_a_file_that_was_edited_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "out")
    file = other / "export" / "onnx-fp32" / "model.onnx"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(AttarError, match=r"onnx-fp32: its model is not as run\.json has it"):
        bench(other)


def test_what_was_measured_goes_with_the_models_that_it_speaks_of(run: Path, found: BenchFacts, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "out")
    withdraw(other)
    assert not list(other.glob("bench.*"))


def test_what_is_gone_is_told_and_the_rest_is_measured(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "out")
    shutil.rmtree(other / "store")
    shutil.rmtree(other / "control")
    facts = load_run(other)
    assert facts.energy is not None
    (other / "run.json").write_text(facts.model_copy(update={"energy": None}).model_dump_json())
    found = bench(other, batches=[1], repeats=1, seconds=0.01)
    notes = {one.name: " ".join(one.notes) for one in found.models}
    assert "the fitted teacher is not there any more" in notes["teacher"]
    assert "the fitted teacher is not there any more" in notes[REFERENCE]
    assert "not measured" in notes["control"]
    assert str(tmp_path) not in found.model_dump_json()
    assert found.reference is None
    measured = [one.name for one in found.models if one.batches]
    assert measured == ["student", FILE]
    assert all(one.break_even is None for one in found.models)
    assert any("did not count" in note for note in found.notes)
    assert "the reference was not measured" in "\n".join(lines(found))
    render(found)


def test_a_folder_that_is_none_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["attar", "bench", str(tmp_path / "absent")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("batch", ["0", "1,x", "2,2", ""])
def test_a_wrong_batch_is_refused(
    batch: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["attar", "bench", "runs/none", "--batch", batch])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "--batch" in capsys.readouterr().err
