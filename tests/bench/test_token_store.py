"""`benchmarks/lm/store.py` as a user starts it, on a teacher so small that its figures mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_form_gives_bytes_errors_and_a_rate(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "lm" / "store.py"), "--quick"]
    done = subprocess.run(
        [*script, "--json", str(out), "--place", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["tokens"] == 8 * 15
    assert set(result["dense"]) == {"initial", "trained", "near"}
    for row in result["rows"]:
        assert 0 < row["bytes"] < 200
        assert row["rate"] > 0
        assert row["trained_noise"] >= 0
        assert row["near_gradient"] >= 0
    forms = [row["form"] for row in result["rows"]]
    assert forms.count("threshold 0.02") > 3
    assert done.stdout.count("| threshold 0.02 |") == forms.count("threshold 0.02")
