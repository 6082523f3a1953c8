"""A run's lineage names all that went in: also what the student started from and where unlabelled rows came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_parts import make, texts, write_teacher

import attar
from attar.errors import PolicyError


def test_a_pretrained_student_and_unlabelled_rows_are_sources(tmp_path: Path) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(json.dumps({"text": text}) for text in texts("fee", 200, 12)))
    path = make(
        tmp_path,
        data={"source": str(tmp_path / "data"), "transfer": [{"kind": "unlabelled", "source": str(more)}]},
        teacher={"kind": "local", "model": str(tmp_path / "teacher"), "licence": "apache-2.0"},
        student={"kind": "pretrained", "model": str(write_teacher(tmp_path / "small"))},
        objectives=[{"kind": "forward_kl"}],
        training={"epochs": 1, "batch_size": 16, "evaluations": 1},
    )
    with pytest.raises(PolicyError, match=r"(?s)student starts from .*small.*student:\n +licence:"):
        attar.distill(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    facts = attar.distill(path, tmp_path / "out", overrides=["student.licence=mit"])
    found = {source.role: source for source in facts.lineage.sources}
    assert [source.role for source in facts.lineage.sources] == ["teacher", "data", "transfer", "student"]
    assert (found["transfer"].name, found["student"].name, found["student"].licence) == ("more.jsonl", "small", "mit")
    assert len({source.hash for source in found.values()}) == 3, "teacher and student start from equal folders here"
    card = (tmp_path / "out" / "student" / "README.md").read_text()
    assert "The student starts from small, licence mit" in card
    assert "The student starts from" in (tmp_path / "out" / "report.html").read_text()
