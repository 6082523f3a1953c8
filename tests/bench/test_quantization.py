"""`benchmarks/quantization.py` as a user starts it, on so few steps that its figures mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_both_ways_are_compared(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "quantization.py"), str(ROOT / "recipes" / "digits.yaml")]
    done = subprocess.run(
        [*script, "--quick", "--seeds", "2", "--run", str(tmp_path / "run"), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    gain = result["accuracy"]["quantization-aware - post-training, file"]
    assert gain["lo"] <= gain["value"] <= gain["hi"]
    for way in ("post-training", "quantization-aware"):
        assert len(result["by_seed"][way]["file"]) == 2
        assert all(0.0 <= share <= 1.0 for share in result["agreement"][way])
    assert result["steps"] == 4
