"""A whole run whose student writes answers while it learns: recorded, logged, and with a control that does not."""

from __future__ import annotations

import json
from pathlib import Path

from language_parts import STUDENT, make

import attar


def test_a_student_learns_from_what_it_writes(tmp_path: Path) -> None:
    """Chats by a template, a student with fewer tokens: the same text by other numbers on both sides."""
    path = make(
        tmp_path, chat=True, student={**STUDENT, "vocabulary": {"keep": "used"}},
        task={"kind": "causal_lm", "prompt": "prompt", "max_length": 48},
        objectives=[{"kind": "skew_reverse_kl"}, {"kind": "hard_labels", "weight": 0.2}],
        rollouts={"fraction": 0.7, "max_new_tokens": 8},
    )  # fmt: skip
    facts = attar.distill(path, tmp_path / "out")
    written, control = facts.training["student"].rollouts, facts.training["control"].rollouts
    assert control is None
    assert written is not None
    assert 0 < written.texts < 15 * 8
    assert 1 <= written.length <= 8
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert sum(line["rollouts"]["texts"] for line in lines if "rollouts" in line) == written.texts
    assert {line["phase"] for line in lines if "rollouts" in line} == {"student"}
    assert "Written while training" in (tmp_path / "out" / "report.html").read_text()
    assert any("takes part in steps on the data" in warning for warning in facts.warnings)
    again = attar.distill(path, tmp_path / "out")
    assert all(stage.cached for stage in again.stages if stage.name != "data")
    changed = path.read_text().replace('"max_new_tokens": 8', '"max_new_tokens": 7')
    path.write_text(changed)
    third = attar.distill(path, tmp_path / "out")
    assert [stage.name for stage in third.stages if stage.cached] == ["data", "0/control"]
