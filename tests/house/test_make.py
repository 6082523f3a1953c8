"""`make` sets up its environment where only python3, pip and make are there, and says so where Python is too old."""

from __future__ import annotations

import ensurepip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHEELS = Path(ensurepip.__file__).parent / "_bundled"
DEBIAN = f"""#!/bin/sh
if [ "$*" = "-m venv .venv" ]; then {sys.executable} -m venv --without-pip .venv; exit 1; fi
exec {sys.executable} "$@"
"""
"""A python3 whose venv comes without ensurepip: it leaves an environment that has no pip, and fails."""
OLD = """#!/bin/sh
if [ "$1" = -V ]; then echo "Python 3.9.2"; exit 0; fi
exit 1
"""


def make_venv(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "python3").write_text(python)
    (folder / "python3").chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", "venv", f"PYTHON={folder}/python3"], cwd=folder, capture_output=True, text=True, check=False,
        env={**env, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS)},
    )  # fmt: skip


@pytest.mark.parametrize("half_made", [False, True])
def test_python_without_ensurepip_is_enough(tmp_path: Path, half_made: bool) -> None:
    if not list(WHEELS.glob("pip-*.whl")):
        pytest.skip(f"needs the wheel of pip that Python bundles, which is not in {WHEELS}")
    if half_made:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=tmp_path, check=True)
    done = make_venv(tmp_path, DEBIAN)
    assert done.returncode == 0, done.stderr
    subprocess.run([tmp_path / ".venv/bin/python", "-m", "pip", "--version"], check=True, capture_output=True)
    assert make_venv(tmp_path, OLD).returncode == 0, "what is there is used"


def test_an_old_python_is_named(tmp_path: Path) -> None:
    done = make_venv(tmp_path, OLD)
    assert done.returncode != 0
    assert "attar needs Python 3.11 or newer" in done.stderr
    assert "3.9.2" in done.stderr
    assert not (tmp_path / ".venv").exists()
