"""A record names no folder of the machine that made it, and keeps its rows and labels as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.facts import ExampleFacts, RefusedFacts
from attar.governance.portable import portable, portable_record
from report.made import made_run

HOME = "/srv/someone"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("PolyAI/banking77", "PolyAI/banking77"),
        ("data/mine", "data/mine"),
        ("package:a_b/model", "package:a_b/model"),
        ("~/models/teacher", "teacher"),
        ("C:\\models\\teacher", "teacher"),
        ("/x/y/teacher/", "teacher"),
    ],
)
def test_portable_names(name: str, shown: str) -> None:
    assert portable(name) == shown


def test_a_record_names_no_folder_of_this_machine() -> None:
    run = made_run()
    recipe = {
        "name": "x", "description": f"of {HOME}, in words",
        "task": {"labels": ["/r/python", "/r/rust"]},
        "teacher": {"kind": "local", "model": f"{HOME}/big", "config": {"_name_or_path": f"{HOME}/older"}},
        "data": {"source": f"{HOME}/rows", "transfer": [{"kind": "unlabelled", "source": "~/more.csv"}]},
        "student": {"kind": "pretrained", "model": "org/small"},
    }  # fmt: skip
    reason = f"{HOME}/out/export/onnx-int8: agreement is 0.5"
    made = run.model_copy(
        update={
            "recipe": recipe,
            "teacher": run.teacher.model_copy(update={"name": f"{HOME}/big"}),
            "policy": run.policy.model_copy(update={"teacher": f"{HOME}/big"}),
            "data": run.data.model_copy(update={"labels": ["/r/python", "/r/rust"], "notes": [f"{HOME}/rows: 3 rows"]}),
            "refused": [RefusedFacts(kind="onnx", precision="int8", seed=0, failed="parity", reason=reason)],
            "warnings": [reason, f'the teacher "{HOME}/big", read from {HOME}/rows/train.csv, is poor', "org/small"],
            "evaluation": run.evaluation.model_copy(
                update={"examples": [ExampleFacts(text=f"see {HOME}/rows", teacher="a", student="b")]}
            ),
        }
    )
    found = portable_record(made, Path(HOME) / "out")
    assert found.teacher.name == found.policy.teacher == "big"
    assert found.recipe["teacher"] == {"kind": "local", "model": "big", "config": {"_name_or_path": "older"}}
    assert found.recipe["data"] == {"source": "rows", "transfer": [{"kind": "unlabelled", "source": "more.csv"}]}
    assert found.recipe["student"] == recipe["student"]
    assert found.recipe["description"] == recipe["description"]
    assert found.recipe["task"] == recipe["task"]
    assert found.data.labels == ["/r/python", "/r/rust"]
    assert found.data.notes == ["rows: 3 rows"]
    assert found.refused[0].reason == "export/onnx-int8: agreement is 0.5"
    assert found.warnings == [
        found.refused[0].reason,
        'the teacher "big", read from rows/train.csv, is poor',
        "org/small",
    ]
    assert found.evaluation == made.evaluation
    assert HOME not in found.model_copy(update={"recipe": {}, "evaluation": run.evaluation}).model_dump_json()


def test_a_record_without_paths_stays_as_it_is() -> None:
    assert portable_record(made_run(), Path("runs/x")) == made_run()
