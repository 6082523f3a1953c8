"""What a stranger does: clone into an empty folder with no venv, and type the README's commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_CLONED = shutil.ignore_patterns(
    ".git", ".venv", "runs", "build", "dist", ".*_cache", ".hypothesis", "__pycache__", "node_modules", "static"
)
BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy without anything that git ignores; removed afterwards (torch takes gigabytes)."""
    place = tmp_path_factory.mktemp("empty") / "attar"
    shutil.copytree(ROOT, place, ignore=NOT_CLONED)
    yield place
    shutil.rmtree(place)


def typed(command: str, place: Path) -> str:
    """Standard output of a command line, as a shell without our venv runs it."""
    ours = str(ROOT / ".venv")
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not p.startswith(ours))
    known = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        ["bash", "-c", command], cwd=place, env={**known, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_readme_holds_in_an_empty_folder(clone: Path) -> None:
    blocks = BLOCK.findall((clone / "README.md").read_text(encoding="utf-8"))
    first, python = blocks[0][1], next(text for kind, text in blocks if kind == "python")
    demo = next(line for line in first.splitlines() if "make demo" in line).removeprefix("$ ")
    shown = typed(demo, clone)
    assert "runs/demo/report.html" in shown
    assert " smaller, keeping " in shown
    assert (clone / "runs" / "demo" / "report.html").stat().st_size < 500_000
    found = json.loads((clone / "runs" / "demo" / "run.json").read_text(encoding="utf-8"))
    assert found["student"]["params"] <= 0.1 * found["teacher"]["params"]
    assert found["retention"]["value"] >= 0.97
    assert {a["precision"] for a in found["artifacts"]} == {"fp32", "int8"}
    (clone / "block.py").write_text(python, encoding="utf-8")
    retention, size = typed(".venv/bin/python block.py", clone).splitlines()[-1].rsplit(" ", 1)
    assert "value=" in retention
    assert int(size) > 0
    typed("make env EXTRAS=demo,onnx", clone)
    typed(".venv/bin/attar init recipe.yaml && .venv/bin/attar check recipes/digits.yaml", clone)
