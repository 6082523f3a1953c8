"""A test that cannot run says why: in the settings, and for the data that not every machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_skip_is_told_with_its_reason_wherever_pytest_is_started(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-k", "banking77_recipe", "-p",
         "no:cacheprovider", str(ROOT / "tests" / "plan" / "test_plan.py")],
        cwd=tmp_path, env={**os.environ, "ATTAR_MIRROR": str(nowhere)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"which is not in {nowhere} (set ATTAR_MIRROR)" in " ".join(done.stdout.split())
