"""`benchmarks/quantization.py` as a user starts it, on so few steps that its figures mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.scripts import BENCHMARKS, run_script


@pytest.mark.slow
def test_both_ways_are_compared(tmp_path: Path) -> None:
    result, _ = run_script(
        "quantization.py",
        tmp_path / "out.json",
        str(BENCHMARKS.parent / "recipes" / "digits.yaml"),
        "--quick",
        "--seeds",
        "2",
        "--run",
        str(tmp_path / "run"),
        told="--out",
    )
    gain = result["found"]["quantization-aware - post-training, file"]
    assert gain["lo"] <= gain["value"] <= gain["hi"]
    for way in ("post-training", "quantization-aware"):
        assert len(result["by_seed"][way]["file"]) == 2
        assert all(0.0 <= share <= 1.0 for share in result["agreement"][way])
    assert result["steps"] == 4
