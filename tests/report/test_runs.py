"""`run.json`: its schema, reading it back, and comparing several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from attar.errors import AttarError
from attar.facts import RunFacts
from attar.report.compare import cautions, compare, compare_rows
from attar.report.load import load_run
from attar.report.schema import run_schema
from report.made import made_run, unlabelled_run


def written(folder: Path, run: RunFacts) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(run.model_dump_json(indent=1), encoding="utf-8")
    return folder


@pytest.mark.parametrize("run", [made_run(), unlabelled_run()], ids=["labelled", "unlabelled"])
def test_a_run_fulfils_the_schema(run: RunFacts) -> None:
    schema = run_schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(run.model_dump_json()))


def test_the_schema_refuses_what_is_no_run() -> None:
    validator = Draft202012Validator(run_schema())
    run = json.loads(made_run().model_dump_json())
    assert not validator.is_valid({**run, "schema_version": 2})
    assert not validator.is_valid({**run, "surprise": 1})
    assert not validator.is_valid({k: v for k, v in run.items() if k != "retention"})
    assert not validator.is_valid({**run, "retention": 0.98})
    json.dumps(run_schema())


def test_a_run_is_read_back_from_its_folder_or_file(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", made_run())
    assert load_run(folder) == made_run()
    assert load_run(folder / "run.json") == made_run()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "there is no such file"),
        (b"", "is not JSON"),
        (b"\xff\xfe{", "is not JSON"),
        (b"[]", "is not a run's record"),
        (b"{}", "Field required"),
        (b'{"schema_version": 99}', "written by a newer attar"),
    ],
)
def test_a_bad_record_is_explained(tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(AttarError, match=expected) as caught:
        load_run(tmp_path)
    assert "run.json" in str(caught.value)


def test_a_damaged_field_is_named(tmp_path: Path) -> None:
    content = json.loads(made_run().model_dump_json())
    content["quality"]["n"] = "many"
    (tmp_path / "run.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(AttarError, match=r"quality\.n"):
        load_run(tmp_path)
    with pytest.raises(AttarError, match="there is no such file"):
        load_run(tmp_path / "absent")


def test_runs_compare_with_the_first() -> None:
    one, two = made_run(), made_run(name="wider")
    quality = two.quality.model_copy(update={"student": 0.9402})
    student = two.student.model_copy(update={"params": 2 * one.student.params})
    two = two.model_copy(update={"quality": quality, "student": student})
    rows = {row.name: row for row in compare_rows([one, two])}
    assert rows["accuracy"].values == (0.9322, 0.9402)
    assert rows["accuracy"].differences == (0.0, pytest.approx(0.008))
    assert rows["parameters"].differences[1] == one.student.params
    text = compare([one, two])
    assert "94.0 % (+0.8 points)" in text
    assert "1,617,306 (+100.0 %)" in text
    assert text.splitlines()[0].split() == ["banking77", "wider"]
    assert "note:" not in text


def test_runs_that_do_not_compare_say_so() -> None:
    one, two = made_run(), unlabelled_run()
    sources = [s.model_copy(update={"hash": "other"}) for s in two.lineage.sources]
    lineage = two.lineage.model_copy(update={"sources": sources, "machine": {"cores": "64"}})
    two = two.model_copy(update={"lineage": lineage, "teacher": two.teacher.model_copy(update={"name": "other"})})
    found = " ".join(cautions([one, two]))
    for part in ("different metrics", "different data", "different teachers", "different machines"):
        assert part in found
    assert "-" in compare([one, two])


def test_budgets_stand_in_the_comparison() -> None:
    run = made_run()
    missed = run.budget[0].model_copy(update={"met": False})
    unknown = run.budget[1].model_copy(update={"met": None})
    runs = [made_run(budget=[]), made_run(budget=[missed]), made_run(budget=[unknown]), run]
    last = next(line for line in compare(runs).splitlines() if line.startswith("budget"))
    assert "none" in last
    assert "missed: max_params" in last
    assert "not measured: max_bytes" in last


def test_one_run_is_enough_and_none_is_not() -> None:
    assert "accuracy" in compare([made_run()])
    with pytest.raises(AttarError, match="at least one"):
        compare([])
