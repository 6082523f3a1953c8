"""`benchmarks/lm/store.py` as a user starts it, on a teacher so small that its figures mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.scripts import run_script


@pytest.mark.slow
def test_every_form_gives_bytes_errors_and_a_rate(tmp_path: Path) -> None:
    result, shown = run_script("lm/store.py", tmp_path / "out.json", "--quick", "--place", str(tmp_path))
    assert result["tokens"] == 8 * 15
    assert set(result["dense"]) == {"initial", "trained", "near"}
    for row in result["rows"]:
        assert 0 < row["bytes"] < 200
        assert row["rate"] > 0
        assert row["trained_noise"] >= 0
        assert row["near_gradient"] >= 0
    forms = [row["form"] for row in result["rows"]]
    assert forms.count("threshold 0.02") > 3
    assert shown.count("| threshold 0.02 |") == forms.count("threshold 0.02")
