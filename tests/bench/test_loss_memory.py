"""`benchmarks/loss_memory.py` as a user starts it, on a vocabulary so small that its figures mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.scripts import run_script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc"),
]


def test_every_case_gives_seconds_and_memory(tmp_path: Path) -> None:
    options = "--tokens 48 96 --repeats 2 --vocabulary 300 --width 8".split()
    only = ["--only", "gemm", "naive", "trl", "liger", "forward_kl", "sparse_kl", "forward_kl+hard_labels"]
    result, _ = run_script("loss_memory.py", tmp_path / "out.json", *options, *only)
    cases = {(case["impl"], case["objective"], case["tokens"]): case for case in result["cases"]}
    assert {impl for impl, _, _ in cases} == {"attar", "naive", "liger", "trl", "gemm"}
    assert ("attar", "forward_kl", 96) in cases
    for case in cases.values():
        assert case["seconds"] > 0
        assert isinstance(case["peak_extra_bytes"], int)
    assert cases["attar", "sparse_kl", 48]["n"] == 2
    assert cases["attar", "forward_kl", 96]["n"] == 1
    assert result["over_attar_forward_kl"]["attar forward_kl 48"]["time"] == [1.0, 1.0, 1.0]
    assert result["conditions"]["threads"] == 1
