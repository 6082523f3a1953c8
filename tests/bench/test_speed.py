"""`benchmarks/lm/speed.py` as a user starts it, on models so small that its figures mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.scripts import run_script

RATIOS = {
    "live_over_trl", "stored_over_trl", "live_over_trl_masked", "stored_over_trl_masked", "on_policy_over_trl",
    "memory_over_trl", "live_over_bare", "stored_over_bare",
}  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc"),
]


def test_every_ratio_has_its_interval(tmp_path: Path) -> None:
    result, shown = run_script("lm/speed.py", tmp_path / "out.json", "--quick", "--threads", "1")
    assert {name for name in result if "_over_" in name} == RATIOS
    for name in RATIOS:
        assert set(result[name]) == {"value", "lo", "hi", "n"}
        assert result[name]["n"] == 1
        if name != "memory_over_trl":  # which is noise at this size
            assert 0 < result[name]["lo"] <= result[name]["value"] <= result[name]["hi"]
    assert set(result["whole"]["bare_seconds"]) == {
        "teacher body", "student body", "teacher head", "student head", "optimizer"
    }  # fmt: skip
    assert 0.5 <= result["conditions"]["masked_rows"]["masked_share"] < 1
    assert result["conditions"]["activation_checkpointing"] is False
    assert f"live_over_trl {'':10}" in shown
