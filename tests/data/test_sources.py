"""Every kind of source gives the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from attar.errors import DataError

TRAIN = {"text": [f"train text {i}" for i in range(20)], "label": ["no", "yes"] * 10}
TEST = {"text": [f"test text {i}" for i in range(6)], "label": ["yes", "no"] * 3}


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    match path.suffix:
        case ".parquet":
            pq.write_table(table, path)
        case ".csv":
            pa_csv.write_csv(table, path)
        case ".tsv":
            pa_csv.write_csv(table, path, pa_csv.WriteOptions(delimiter="\t"))
        case _:
            path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json"])
def test_a_folder_of_files_named_by_split(tmp_path, load, suffix):
    write(tmp_path / f"train{suffix}", TRAIN)
    write(tmp_path / f"test{suffix}", TEST)
    splits = load(tmp_path)
    assert splits.labels == ("no", "yes")
    assert splits.test["text"][:] == TEST["text"]
    assert splits.test["label"][:] == [1, 0] * 3
    assert len(splits.train) + len(splits.validation) == 20
    assert splits.facts.rows == {"train": 18, "validation": 2, "test": 6}
    assert set(splits.train["origin"]) == {"train"}


def test_all_kinds_of_files_give_the_same_hash(tmp_path, load):
    hashes = set()
    for suffix in (".parquet", ".csv", ".jsonl"):
        folder = tmp_path / suffix[1:]
        write(folder / f"train{suffix}", TRAIN)
        write(folder / f"test{suffix}", TEST)
        hashes.add(load(folder).hash)
    given = load(given={"train": Dataset.from_dict(TRAIN), "test": TEST})
    assert {given.hash} == hashes


def test_a_single_file_is_cut_into_three(tmp_path, load):
    splits = load(write(tmp_path / "all.csv", TRAIN))
    assert splits.facts.rows == {"train": 14, "test": 4, "validation": 2}
    texts = [*splits.train["text"], *splits.validation["text"], *splits.test["text"]]
    assert sorted(texts) == sorted(TRAIN["text"])
    assert sorted(splits.test["label"]) == [0, 0, 1, 1]


def test_a_named_validation_split_and_a_hint_at_an_unused_one(tmp_path, load):
    write(tmp_path / "train.csv", TRAIN)
    write(tmp_path / "dev.csv", TEST)
    named = load({"source": str(tmp_path), "splits": {"validation": "dev"}})
    assert len(named.validation) == 6
    assert any("data.splits.validation: dev" in note for note in load(tmp_path).facts.notes)


def test_shards_the_hub_layout_and_a_configuration(tmp_path, load):
    half = {name: values[:10] for name, values in TRAIN.items()}
    rest = {name: values[10:] for name, values in TRAIN.items()}
    write(tmp_path / "small/data/train-00000-of-00002.parquet", half)
    write(tmp_path / "small/data/train-00001-of-00002.parquet", rest)
    write(tmp_path / "small/data/test-00000-of-00001.parquet", TEST)
    splits = load({"source": str(tmp_path), "config": "small"})
    assert splits.facts.rows == {"train": 18, "validation": 2, "test": 6}
    with pytest.raises(DataError, match=r"`data.config` names a folder"):
        load({"source": str(tmp_path), "config": "large"})


def test_a_folder_written_by_save_to_disk(tmp_path, load):
    DatasetDict(train=Dataset.from_dict(TRAIN), test=Dataset.from_dict(TEST)).save_to_disk(tmp_path / "saved")
    assert load(tmp_path / "saved").facts.rows == {"train": 18, "validation": 2, "test": 6}


def test_the_mirror_serves_a_hub_name(tmp_path, load, monkeypatch):
    write(tmp_path / "banking/train.csv", TRAIN)
    write(tmp_path / "banking/test.csv", TEST)
    monkeypatch.setenv("ATTAR_MIRROR", str(tmp_path))
    assert load("SomeOrg/banking").facts.rows["test"] == 6


def test_an_unreachable_hub_name_says_what_to_do(load, monkeypatch):
    monkeypatch.delenv("ATTAR_MIRROR", raising=False)
    with pytest.raises(DataError, match=r'"SomeOrg/no-such-data".*ATTAR_MIRROR=DIR.*DIR/no-such-data/train.parquet'):
        load("SomeOrg/no-such-data")


def test_rows_as_columns_and_as_a_list_of_rows(load):
    rows = [{"text": t, "label": label} for t, label in zip(TRAIN["text"], TRAIN["label"], strict=True)]
    assert load(given=TRAIN).hash == load(given=rows).hash == load(given={"train": rows}).hash
    with pytest.raises(DataError, match="no rows were handed over"):
        load()
    with pytest.raises(DataError, match=r"columns differ in length: \{'text': 2, 'label': 1\}"):
        load(given={"train": {"text": ["a", "b"], "label": ["x"]}})
    with pytest.raises(DataError, match="got int"):
        load(given={"train": TRAIN, "test": 3})


def test_a_class_label_feature_names_the_labels(load):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["zebra", "ant", "unseen"])})
    data = Dataset.from_dict({"text": TRAIN["text"], "label": [0, 1] * 10}, features=features)
    splits = load(given={"train": data.shuffle(seed=0)})
    assert splits.labels == ("zebra", "ant", "unseen")
    assert any("unseen" in note for note in splits.facts.notes)
    by_text = dict(zip(splits.train["text"], splits.train["label"], strict=True))
    assert all(label == int(text.split()[-1]) % 2 for text, label in by_text.items())


def test_digits_are_embedded_images_with_a_fixed_test_split(load):
    task = {"kind": "image_classification", "image_size": 8}
    splits = load("digits", task)
    other = load({"source": "digits", "seed": 7}, task)
    assert splits.facts.rows == {"train": 1294, "test": 359, "validation": 144}
    assert splits.labels == tuple("0123456789")
    image = splits.test[0]["image"]
    assert (image.mode, image.size) == ("RGB", (8, 8))
    assert splits.test["label"][:] == other.test["label"][:]
    assert splits.train["label"][:] != other.train["label"][:]
    assert min(np.bincount(splits.test["label"])) >= 34


def picture(path: Path, level: int, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(level).integers(0, 20, (6, 5, 3))
    Image.fromarray((noise + level).astype(np.uint8)).convert(mode).save(path)
    return path


@pytest.mark.parametrize("with_splits", [True, False])
def test_image_folders(tmp_path, load, with_splits):
    for split in ("train", "test") if with_splits else (".",):
        for number, label in enumerate(["cat", "dog"]):
            for i in range(6):
                picture(
                    tmp_path / split / label / f"{i}.{'png' if i % 2 else 'jpg'}", 100 * number + i + 10 * len(split)
                )
    splits = load(tmp_path, {"kind": "image_classification"})
    assert splits.labels == ("cat", "dog")
    assert sum(splits.facts.rows.values()) == (24 if with_splits else 12)
    assert splits.test[0]["image"].size == (5, 6)


def test_images_at_different_depths_are_refused(tmp_path, load):
    picture(tmp_path / "train/cat/1.png", 1)
    picture(tmp_path / "stray.png", 2)
    with pytest.raises(DataError, match="different depths"):
        load(tmp_path, {"kind": "image_classification"})


def test_image_cells_of_every_form_are_the_same_image(tmp_path, load):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 6, 6, 3)).astype(np.uint8)
    labels = ["a", "b"] * 12
    paths = []
    for i, image in enumerate(pixels):
        paths.append(f"{i}.png")
        Image.fromarray(image).save(tmp_path / paths[-1])
    as_bytes = [(tmp_path / p).read_bytes() for p in paths]
    write(tmp_path / "paths/train.csv", {"image": [f"../{p}" for p in paths], "label": labels})
    pq.write_table(pa.table({"image": as_bytes, "label": labels}), tmp_path / "bytes.parquet")
    task = {"kind": "image_classification", "image_size": 6}
    hashes = {
        load(given={"image": list(pixels), "label": labels}, task=task).hash,
        load(given={"image": pixels.tolist(), "label": labels}, task=task).hash,
        load(given={"image": [p.transpose(2, 0, 1) for p in pixels], "label": labels}, task=task).hash,
        load(given={"image": [p / 255 for p in pixels], "label": labels}, task=task).hash,
        load(given={"image": [Image.fromarray(p) for p in pixels], "label": labels}, task=task).hash,
        load(given=Dataset.from_dict({"image": [Image.fromarray(p) for p in pixels], "label": labels}), task=task).hash,
        load(tmp_path / "paths", task).hash,
        load(tmp_path / "bytes.parquet", task).hash,
    }
    assert len(hashes) == 1


def test_no_cache_is_written(tmp_path, load, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    transfer = [{"kind": "augment_text", "rows": 5}]
    splits = load({"source": str(write(tmp_path / "data/all.parquet", TRAIN)), "transfer": transfer})
    assert not any(part.cache_files for part in (splits.train, splits.validation, splits.test, splits.transfer))
    assert not cache.exists()
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["all.parquet"]


def test_banking77_from_the_mirror(load, mirror, monkeypatch):
    monkeypatch.setenv("ATTAR_MIRROR", str(mirror))
    splits = load("PolyAI/banking77")
    assert len(splits.labels) == 77
    assert splits.facts.rows == {"train": 8997, "test": 3080, "validation": 999}
    assert splits.facts.overlap_removed == 7
