"""The code in docs/objectives.md and examples/own_objective.py runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_code_blocks_run_in_order() -> None:
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "own_objective.py"))
    assert capsys.readouterr().out == "hellinger keeps the laws\n"
