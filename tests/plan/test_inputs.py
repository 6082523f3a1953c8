"""Data and checkpoints that cannot be used, seen before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plan.samples import plan_of, problems_of, write_model, write_rows, write_safetensors


def only(found: list[str], *words: str) -> None:
    assert len(found) == 1, found
    for word in words:
        assert word in found[0]


def test_missing_columns_name_the_nearest(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows")
    found = problems_of(tmp_path, task={"text": "txet", "label": "labels", "slice_by": "region"})
    assert [line.partition(": ")[0] for line in found] == ["task.text", "task.slice_by", "task.label"]
    assert 'Did you mean "text"? Columns there: text, label.' in found[0]


def test_data_without_labels_is_told_and_what_needs_them_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "rows").mkdir()
    pq.write_table(pa.table({"text": ["a", "b", "c"]}), tmp_path / "rows" / "train.parquet")
    plan = plan_of(tmp_path)
    assert plan.data.labelled is False
    assert "there is no control" in plan.warnings[0]
    found = problems_of(
        tmp_path, teacher={"fit": "probe"}, objectives=[{"kind": "hard_labels"}], budget={"min_retention": 0.9}
    )
    assert [line.partition(": ")[0] for line in found] == ["teacher.fit", "objectives[0].kind", "budget.min_retention"]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([], "has no rows"),
        (["a", "a", "a"], 'train has one label only ("a", 3 rows)'),
        (["a", "b", None, ""], "2 rows have no label"),
    ],
)
def test_empty_and_one_class_data(tmp_path: Path, labels: list, told: str) -> None:
    import pyarrow as pa

    write_rows(tmp_path / "rows", labels or [], text=pa.array(["x"] * len(labels), pa.string()))
    assert any(told in line for line in problems_of(tmp_path))


def test_labels_that_the_recipe_does_not_name(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", ["cat", "dog", "brid", "cat", "cat"])
    labels = ["cat", "dog", "bird"]
    only(
        problems_of(tmp_path, task={"labels": labels}, teacher={"fit": "probe"}),
        "task.labels",
        '"brid" Did you mean "bird"?',
    )
    twice = {"labels": ["cat", "dog", "brid", "cat"]}
    only(problems_of(tmp_path, task=twice, teacher={"fit": "probe"}), "task.labels", '"cat" stands twice')
    write_rows(tmp_path / "rows", [0, 2, 1, 0, 0])
    assert plan_of(tmp_path, task={"labels": labels}, teacher={"fit": "probe"}).data.labels == ("cat", "dog", "bird")


def test_too_few_rows_of_a_class(tmp_path: Path) -> None:
    only(problems_of(tmp_path, data={"min_class_rows": 3}), "data.min_class_rows", '"a" (2), "b" (2)')


def test_regression_needs_numbers(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", ["1.5", "2", "high", "3"])
    write_model(tmp_path / "teacher", id2label={"0": "score"})
    found = problems_of(tmp_path, task={"problem": "regression"}, objectives=[{"kind": "logit_mse"}])
    only(found, "task.label", "row 2 holds 'high'")


def test_splits_that_are_not_there(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows")
    write_rows(tmp_path / "rows", split="dev")
    found = problems_of(tmp_path, data={"splits": {"train": "trian", "validation": "devv"}})
    assert 'data.splits.train: there is no split "trian". Did you mean "train"?' in found[0]
    assert 'data.splits.validation: there is no split "devv". Did you mean "dev"?' in found[1]
    assert plan_of(tmp_path, data={"splits": {"validation": "dev"}}).data.rows["validation"] == 4
    (tmp_path / "empty").mkdir()
    only(problems_of(tmp_path, data={"source": str(tmp_path / "empty")}), "data.source", "holds no data files")


def test_csv_json_and_image_folders_are_seen(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('text,label\nred cats,a\n"blue\ndogs",b\nred,a\nblue,b\n')
    plan = plan_of(tmp_path, data={"source": str(tmp_path / "rows.csv")})
    assert plan.data.labels == ("a", "b")
    assert sum(n or 0 for n in plan.data.rows.values()) == 4
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": "x", "label": i % 2}) + "\n" for i in range(6)))
    assert plan_of(tmp_path, data={"source": str(tmp_path / "rows.jsonl")}, teacher={"fit": "probe"}).data.labels == (
        "0",
        "1",
    )
    (tmp_path / "bad.jsonl").write_text('{"text": \n')
    only(problems_of(tmp_path, data={"source": str(tmp_path / "bad.jsonl")}), "data.source", "not readable as jsonl")
    for split, label in (("train", "cat"), ("train", "dog"), ("test", "cat")):
        folder = tmp_path / "images" / split / label
        folder.mkdir(parents=True)
        for name in ("1.png", "2.png"):
            (folder / name).write_bytes(b"")
    resnet = {"model_type": "resnet", "depths": [1], "hidden_sizes": [8]}
    plan = plan_of(
        tmp_path, task={"kind": "image_classification"}, data={"source": str(tmp_path / "images")},
        teacher={"kind": "local", "model": None, "config": resnet, "fit": "full"},
        student={"kind": "from_config", "config": resnet},
    )  # fmt: skip
    assert plan.data.labels == ("cat", "dog")
    assert plan.data.rows == {"train": 3, "validation": 1, "test": 2}


def test_sharded_weights_and_those_of_the_index(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "teacher")
    (folder / "model.safetensors").unlink()
    for shard, shape in (("a", (10, 10)), ("b", (5,))):
        write_safetensors(folder / f"{shard}.safetensors", {shard: shape})
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert plan_of(tmp_path).teacher.params.likely == 105
    (folder / "b.safetensors").unlink()
    only(problems_of(tmp_path), "this file of the index is missing")


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"PK\3\4 hello", "is not a safetensors file"), (b"\x04" + b"\0" * 7 + b"{{{{", "damaged"), (None, "cut short")],
)
def test_damaged_weights_are_seen_in_their_header(tmp_path: Path, content: bytes | None, told: str) -> None:
    file = write_model(tmp_path / "teacher") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    only(problems_of(tmp_path), "teacher.model", told)


def test_a_pickle_is_told_and_never_opened(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "teacher")
    (folder / "model.safetensors").unlink()
    only(problems_of(tmp_path), "has no weights")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/x'\ntR.")
    plan = plan_of(tmp_path)
    assert plan.teacher.params.likely is None
    assert any(
        "is a pickle, which can run code" in warning and "save_pretrained" in warning for warning in plan.warnings
    )


def test_code_that_comes_with_a_model_needs_the_explicit_field(tmp_path: Path) -> None:
    write_model(tmp_path / "teacher", model_type="homegrown", auto_map={"AutoModel": "modeling.Homegrown"})
    student = {"kind": "pretrained", "model": str(write_model(tmp_path / "small"))}
    only(problems_of(tmp_path, student=student), "teacher.model", "set teacher.trust_remote_code: true")
    assert plan_of(tmp_path, student=student, teacher={"trust_remote_code": True})
    write_model(tmp_path / "teacher", auto_map={"AutoModel": "modeling.Homegrown"})
    assert any("it is not run" in warning for warning in plan_of(tmp_path).warnings)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "teacher")
    (folder / "config.json").write_text("[1]")
    only(problems_of(tmp_path), "teacher.model", "is no model folder")
    write_model(folder, model_type="bertt")
    found = problems_of(tmp_path, student={"kind": "pretrained", "model": str(write_model(tmp_path / "small"))})
    only(found, 'does not know the model_type "bertt"', 'Did you mean "bert"?')
    only(
        problems_of(tmp_path, teacher={"model": str(tmp_path / "teachr")}),
        "no such file or folder",
        'Did you mean "teacher"?',
    )
