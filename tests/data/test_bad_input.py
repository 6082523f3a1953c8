"""Bad data is refused with its place, what was got, and the next move."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attar.errors import DataError

WORDS = [f"word {i}" for i in range(12)]
LABELS = ["a", "b"] * 6
IMAGES = {"kind": "image_classification", "image_size": 4}


def rows(**columns):
    return {"train": {"text": list(WORDS), "label": list(LABELS), **columns}}


def images(**columns):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3)).astype(np.uint8)
    return {"image": list(pixels), "label": list(LABELS), **columns}


@pytest.mark.parametrize("value", [None, math.nan, 3, b"bytes", "lone \ud800 surrogate"])
def test_a_text_that_is_no_text(load, value):
    texts = [*WORDS[:7], value, *WORDS[8:]]
    with pytest.raises(DataError, match=r'split "train": column "text" must hold text, got row 7 \(') as caught:
        load(given=rows(text=texts))
    assert "remove the row" in str(caught.value)


def test_many_bad_rows_are_counted(load):
    with pytest.raises(DataError, match=r"row 0 \(None\), row 1 \(None\), row 2 \(None\) and 9 more"):
        load(given=rows(text=[None] * 12))


@pytest.mark.parametrize("value", [None, math.nan, ""])
def test_a_missing_label(load, value):
    with pytest.raises(DataError, match=r'split "train": no label in column "label": row 3 \(None\).*Fill'):
        load(given=rows(label=[*LABELS[:3], value, *LABELS[4:]]))


def test_a_label_of_the_wrong_kind(load):
    with pytest.raises(DataError, match=r"holds 0.5, a label must be a name or a whole number.*problem: regression"):
        load(given=rows(label=[0.5] * 12))
    with pytest.raises(DataError, match="problem: multi_label"):
        load(given=rows(label=[["a"]] * 12))


def test_unknown_labels_are_listed_with_the_nearest_names(load):
    labels = ["positive", "negtive", "neutral"] * 4
    with pytest.raises(
        DataError, match=r'"negtive" Did you mean "negative"\?, "neutral".*Known: negative, positive'
    ) as e:
        load(given=rows(label=labels), task={"labels": ["negative", "positive"]})
    assert "task.labels" in str(e.value)


def test_a_hidden_test_label_is_no_label(load):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    train = Dataset.from_dict({"text": WORDS, "label": [0, 1] * 6}, features=features)
    test = Dataset.from_dict({"text": ["x", "y"], "label": [-1, -1]}, features=features)
    with pytest.raises(DataError, match=r'split "test": no label.*row 0 \(-1\)'):
        load(given={"train": train, "test": test})


def test_one_class_and_few_rows_of_a_class(load):
    with pytest.raises(DataError, match=r'one label only \("a", 9 rows\)'):
        load(given=rows(label=["a"] * 12))
    with pytest.raises(DataError, match=r'fewer than 4 training rows \(data.min_class_rows\): "b" \(1\)'):
        load({"source": "python", "min_class_rows": 4}, given=rows(label=["a"] * 11 + ["b"]))


def test_an_empty_split_and_an_empty_source(load, tmp_path):
    with pytest.raises(DataError, match='split "test": the split has no rows'):
        load(given={**rows(), "test": {"text": [], "label": []}})
    with pytest.raises(DataError, match='split "train": the split has no rows'):
        load(given={"train": []})
    with pytest.raises(DataError, match="holds no data files"):
        load(tmp_path)
    with pytest.raises(DataError, match="too few rows"):
        load(given={"text": ["one"], "label": ["a"]})


def test_a_missing_column_and_a_missing_split_name_the_nearest(load):
    with pytest.raises(
        DataError, match=r'no column "txt" \(task.text\). Did you mean "text"\? Columns here: text, label'
    ):
        load(given=rows(), task={"text": "txt"})
    with pytest.raises(DataError, match=r'no column "label" \(task.label\). Did you mean "labels"\?'):
        load(given={"text": WORDS, "labels": LABELS})
    with pytest.raises(DataError, match=r'no column "target" \(task.label\)'):
        load(given=rows(), task={"label": "target"})
    with pytest.raises(DataError, match=r'no column "origin" \(task.slice_by\)'):
        load(given=rows(), task={"slice_by": "origin"})
    with pytest.raises(DataError, match=r'no split "tran" \(data.splits.train\). Did you mean "train"\?'):
        load({"source": "python", "splits": {"train": "tran"}}, given=rows())
    with pytest.raises(DataError, match=r'no split "hold_out" \(data.splits.test\)'):
        load({"source": "python", "splits": {"test": "hold_out"}}, given=rows())
    with pytest.raises(DataError, match='split "test": there is no column "label"'):
        load(given={**rows(), "test": {"text": ["x"]}})


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "much"])
def test_a_number_that_is_none(load, value):
    numbers = [float(i) for i in range(12)]
    with pytest.raises(DataError, match=r'column "label" must hold finite numbers.*row 5 \('):
        load(given=rows(label=[*numbers[:5], value, *numbers[6:]]), task={"problem": "regression"})


def test_several_labels_must_be_lists(load):
    with pytest.raises(DataError, match=r"must hold a list of labels a row.*row 0 \('a'\)"):
        load(given=rows(), task={"problem": "multi_label"})
    with pytest.raises(DataError, match="an empty label"):
        load(given=rows(label=[["a", None]] * 12), task={"problem": "multi_label"})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_pixels_that_are_no_numbers(load, bad):
    broken = np.full((4, 4, 3), 0.5)
    broken[1, 2, 0] = bad
    given = images()
    given["image"][5] = broken
    with pytest.raises(DataError, match=r"row 5: pixel \(1, 2, 0\) is (nan|inf). Repair the image"):
        load(given=given, task=IMAGES)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((4, 4, 3), 300), "pixels run from 300 to 300"),
        (np.full((4, 4, 3), -0.1), "pixels run from -0.1"),
        (np.zeros((5, 5, 2)), "got 2 channels"),
        (np.zeros(4), r"got shape \(4,\)"),
        ("nowhere.png", "there is no image file nowhere.png"),
        (None, "got NoneType"),
        (b"no image", "cannot read the image"),
    ],
)
def test_an_image_that_is_none(load, value, message):
    given = images()
    given["image"][3] = value
    with pytest.raises(DataError, match=f"row 3.*{message}"):
        load(given=given, task=IMAGES)


def test_a_corrupt_file_is_named(load, tmp_path):
    for label in LABELS[:2]:
        for i in range(4):
            path = tmp_path / "train" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), 10 * i, np.uint8)).save(path)
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(stream, "PNG")
    (tmp_path / "train/b/9.png").write_bytes(stream.getvalue()[:60])
    with pytest.raises(DataError, match=r"row 8 .*train/b/9.png\): cannot read the image"):
        load(tmp_path, IMAGES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"a.jsonl:2: not JSON"),
        ("a.jsonl", '{"text": "a"}\n[1]\n', r"a.jsonl:2: got list"),
        ("a.json", '[{"text": "a"}, 3]', r"a.json, row 1: got int"),
        ("a.json", '[{"text": "a"},', r"a.json:1: not JSON"),
        ("a.csv", "text,label\na,b\nc\n", r"a.csv:3: got 1 cells, the header has 2"),
        ("a.csv", "text,text\na,b\n", r"name the columns, each once"),
        ("a.csv", "", r"got nothing"),
        ("a.csv", 'text,label\n"a,b\n', r"not readable as CSV"),
        ("a.parquet", "PAR", r"not a readable parquet file"),
        ("a.txt", "text", r"cannot read this kind of file"),
    ],
)
def test_a_malformed_file(load, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)


def test_a_file_that_is_not_utf8(load, tmp_path):
    (tmp_path / "train.csv").write_bytes("text,label\ncaf\xe9,a\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 text at byte 14"):
        load(tmp_path / "train.csv")


def test_a_row_of_a_hundred_thousand_words_is_read(load, tmp_path):
    long = " ".join(f"w{i}" for i in range(100_000))
    lines = [f'"{long}",a', *(f"{word},{label}" for word, label in zip(WORDS, LABELS, strict=True))]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(lines))
    splits = load({"source": str(tmp_path), "transfer": [{"kind": "augment_text", "rows": 50}]})
    every = [*splits.train["text"], *splits.validation["text"], *splits.test["text"]]
    assert max(len(text) for text in every) == len(long)
    assert max(len(text.split()) for text in splits.transfer["text"]) < 300


def test_an_augmentation_for_another_task(load):
    with pytest.raises(DataError, match=r"data.transfer\[0\]: augment_image needs images"):
        load({"source": "python", "transfer": [{"kind": "augment_image", "rows": 3}]}, given=rows())
    with pytest.raises(DataError, match=r"data.transfer\[0\]: augment_text needs texts"):
        load({"source": "python", "transfer": [{"kind": "augment_text", "rows": 3}]}, IMAGES, images())


def test_an_absent_file(load):
    with pytest.raises(DataError, match=r"nowhere.csv"):
        load(Path("nowhere.csv"))
