"""EleutherAI's harness, in whose place a module stands here that writes down what it was asked."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attar.errors import DataError, MissingExtra
from attar.evaluation.harness import run_harness


def test_the_student_s_folder_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def evaluate(**given: Any) -> dict[str, Any]:
        asked.update(given)
        return {"results": {"arc_easy": {"acc,none": 0.5}}, "configs": {}}

    stub = ModuleType("lm_eval")
    stub.simple_evaluate = evaluate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", stub)
    assert run_harness(Path("student"), ["arc_easy"], limit=3) == {"arc_easy": {"acc,none": 0.5}}
    assert asked["model_args"]["pretrained"] == "student"
    assert (asked["model"], asked["tasks"], asked["limit"]) == ("hf", ["arc_easy"], 3)

    def fail(**_: Any) -> None:
        raise KeyError("arc_hard")

    stub.simple_evaluate = fail  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"--harness: arc_hard cannot be run: 'arc_hard'\. `lm-eval ls tasks` lists"):
        run_harness(Path("student"), ["arc_hard"])


def test_without_the_package_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtra, match=r'needs the package "lm_eval". Install .* "attar\[harness\]"'):
        run_harness(Path("student"), ["arc_easy"])
