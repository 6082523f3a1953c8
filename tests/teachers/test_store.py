from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from attar.errors import StorageError, StoreError
from attar.hashing import sha256
from attar.signals import HiddenKey, Wanted
from attar.teachers import shards as shards_module
from attar.teachers import store as store_module
from attar.teachers.manifest import Manifest, offers_of, wanted_of
from attar.teachers.shards import write_shard
from attar.teachers.store import open_store, prune, show, verify
from teachers.tiny_texts import LABELS

WANTED = Wanted(hidden=(HiddenKey(2, "mean"), HiddenKey(0, "first")))
OFFERS = ("logits", "hidden:0:first", "hidden:2:mean")


def keys_of(start: int, stop: int) -> list[str]:
    return [f"{i:016x}" for i in range(start, stop)]


def values(keys: list[str], width: int) -> np.ndarray:
    return np.array([[int(key, 16) + column / 100 for column in range(width)] for key in keys], dtype=np.float32)


def signals(keys: list[str]) -> dict[str, np.ndarray]:
    return {"logits": values(keys, 3), "hidden:0:first": values(keys, 4) + 1, "hidden:2:mean": values(keys, 5) + 2}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A store of 25 rows in shards of 10."""
    manifest = Manifest({"teacher": "abc", "max_length": 32}, OFFERS, LABELS, {"name": "tiny"})
    manifest.widths = {"logits": 3, "hidden:0:first": 4, "hidden:2:mean": 5}
    place = tmp_path / "store" / "signals" / manifest.key
    for number, start in enumerate((0, 10, 20)):
        keys = keys_of(start, min(start + 10, 25))
        manifest.shards.append(write_shard(place, f"s{number}.safetensors", keys, signals(keys)))
    manifest.write(place)
    return place


def flip(file: Path, place: int = -3) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_names_of_signals_go_both_ways():
    assert offers_of(WANTED) == OFFERS
    assert wanted_of(OFFERS) == Wanted(True, (HiddenKey(0, "first"), HiddenKey(2, "mean")))
    with pytest.raises(StoreError, match=r"pool: none.*teacher\.signals: live"):
        offers_of(Wanted(hidden=(HiddenKey(1, "none"),)))


def test_rows_are_found_by_key_and_read_in_the_order_asked(folder):
    store = open_store(folder)
    assert len(store) == 25
    keys = [keys_of(0, 25)[i] for i in (24, 0, 11, 0, 9)]
    found = store.read(store.rows(keys))
    for name, value in signals(keys).items():
        mine = found.logits if name == "logits" else found.hidden[wanted_of([name]).hidden[0]]
        assert mine.dtype == torch.float32
        np.testing.assert_array_equal(mine.numpy(), value)
    assert found.mask is None


def test_only_what_is_wanted_is_read(folder):
    store = open_store(folder)
    found = store.read(np.arange(3), Wanted(logits=False, hidden=(HiddenKey(2, "mean"),)))
    assert found.logits is None
    assert list(found.hidden) == [HiddenKey(2, "mean")]


def test_a_reader_goes_by_the_callers_row_numbers(folder):
    keys = keys_of(0, 25)[::-1]
    reader = open_store(folder).reader(keys)
    np.testing.assert_array_equal(reader.read(np.array([1, 20])).logits.numpy(), values([keys[1], keys[20]], 3))


def test_what_is_read_is_a_copy_that_may_be_written(folder):
    store = open_store(folder)
    store.read(np.arange(2)).logits.zero_()
    assert store.read(np.arange(2)).logits.abs().sum() > 0


def test_a_shard_is_an_ordinary_safetensors_file(folder):
    content = load_file(folder / "s1.safetensors")
    np.testing.assert_array_equal(content["logits"].numpy(), values(keys_of(10, 20), 3))


def test_keys_of_other_data_are_named(folder):
    store = open_store(folder)
    assert store.has(["0" * 16, "f" * 16]).tolist() == [True, False]
    with pytest.raises(
        StoreError, match=r"1 of 2 rows are not in this store of 25 rows \(the first is row 1, key ffff"
    ):
        store.rows(["0" * 16, "f" * 16])


def test_a_flipped_byte_names_the_shard_and_the_remedy(folder):
    open_store(folder)
    flip(folder / "s1.safetensors")
    with pytest.raises(StoreError, match=r"s1\.safetensors.*damaged.*attar store verify.*attar store prune.*again"):
        open_store(folder)
    assert len(verify(folder)) == 1
    assert "s1.safetensors" in verify(folder)[0]


def test_a_flip_that_keeps_the_modification_time_is_found_too(folder):
    open_store(folder)
    file = folder / "s1.safetensors"
    stat = file.stat()
    flip(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(StoreError, match=r"s1\.safetensors"):
        open_store(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.unlink(), r"s1\.safetensors: this shard of 10 rows is missing"),
        (lambda f: f.write_bytes(f.read_bytes()[:-8]), r"s1\.safetensors.*bytes"),
        (lambda f: f.write_bytes(b""), r"s1\.safetensors.*it has 0 bytes"),
    ],
    ids=["missing", "truncated", "empty"],
)
def test_damage_is_named_and_pruned(folder, damage, message):
    damage(folder / "s1.safetensors")
    with pytest.raises(StoreError, match=message):
        open_store(folder)
    (folder / ".s9.safetensors.partial").write_bytes(b"half")
    (folder / "s8.safetensors").write_bytes(b"unlisted")
    assert len(verify(folder)) == 3
    assert len(prune(folder)) == 3
    assert verify(folder) == []
    store = open_store(folder)
    assert len(store) == 15
    assert not store.has(keys_of(10, 20)).any()
    assert store.has(keys_of(20, 25)).all()
    assert prune(folder) == []


def test_intact_shards_are_hashed_once_not_in_each_process(folder, monkeypatch):
    hashed: list[str] = []
    real = shards_module.sha256
    monkeypatch.setattr(shards_module, "sha256", lambda f: hashed.append(f.name) or real(f))
    open_store(folder)
    assert len(hashed) == 3
    open_store(folder)
    assert len(hashed) == 3
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    open_store(copy)
    assert len(hashed) == 6, "a copy on another disk is hashed again"
    verify(folder)
    assert len(hashed) == 9


def test_a_read_only_store_opens(folder, monkeypatch):
    def refuse(*_):
        raise StorageError("read-only")

    monkeypatch.setattr(store_module, "atomic_write", refuse)
    assert len(open_store(folder)) == 25


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a store's manifest"),
        ("[]", "not a store's manifest"),
        ('{"format": 99}', "format 99; this attar reads format 1"),
        ("{}", "not a store's manifest"),
    ],
)
def test_a_wrong_manifest(folder, content, message):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=message):
        open_store(folder)


def test_a_manifest_edited_by_hand(folder):
    content = json.loads((folder / "manifest.json").read_text())
    content["facts"]["max_length"] = 64
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match="edited by hand"):
        open_store(folder)


def test_a_shard_of_another_shape_than_the_manifest_says(folder):
    content = json.loads((folder / "manifest.json").read_text())
    facts = write_shard(folder, "s1.safetensors", keys_of(10, 19), signals(keys_of(10, 19)))
    content["shards"][1] |= {"sha256": facts.sha256, "bytes": facts.bytes}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"s1\.safetensors: this shard holds .* 10 rows"):
        open_store(folder)


def test_a_file_that_is_no_safetensors(folder):
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "s1.safetensors").write_bytes(b"not a tensor file at all")
    content["shards"][1] |= {"sha256": sha256(folder / "s1.safetensors"), "bytes": 24}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"s1\.safetensors: this shard is truncated or not a safetensors file"):
        open_store(folder)


def test_labels_and_signals_must_fit(folder):
    store = open_store(folder)
    store.require(LABELS, WANTED)
    with pytest.raises(StoreError, match="in another order"):
        store.require(("cash", "card", "rate"), Wanted())
    with pytest.raises(StoreError, match=r"only in the store \['rate'\], only in the task \['rates'\]"):
        store.require(("card", "cash", "rates"), Wanted())
    with pytest.raises(StoreError, match=r"offers logits.*objectives need hidden:1:mean"):
        store.require(LABELS, Wanted(hidden=(HiddenKey(1, "mean"),)))


def test_what_shaped_it_must_fit(folder):
    store = open_store(folder)
    store.require_facts({"max_length": 32, "teacher": "abc"})
    with pytest.raises(StoreError, match=r"max_length: the store has 32, this run 64"):
        store.require_facts({"max_length": 64, "teacher": "abc"})


def test_a_store_is_found_below_a_runs_folder(folder, tmp_path):
    assert open_store(tmp_path / "store").path == folder
    assert open_store(tmp_path).path == folder
    shutil.copytree(folder, folder.parent / "second")
    with pytest.raises(StoreError, match="holds 2 stores"):
        open_store(tmp_path)
    with pytest.raises(StoreError, match=r"no store here.*attar label"):
        open_store(tmp_path / "nothing")


def test_show_tells_what_it_holds(folder):
    told = show(folder)
    assert told["rows"] == 25
    assert told["shards"] == 3
    assert told["offers"] == {"logits": 3, "hidden:0:first": 4, "hidden:2:mean": 5}
    assert told["facts"] == {"teacher": "abc", "max_length": 32}
    assert told["about"] == {"name": "tiny"}
    json.dumps(told)


def test_a_random_batch_costs_far_less_than_a_training_step(tmp_path):
    """32 rows of 77 logits and 384 numbers from 16 shards; a step of the smallest student takes 20 ms or more."""
    manifest = Manifest({}, ("logits", "hidden:6:mean"), LABELS, widths={"logits": 77, "hidden:6:mean": 384})
    rng = np.random.default_rng(0)
    for number in range(16):
        keys = keys_of(number * 1000, number * 1000 + 1000)
        content = {name: rng.normal(size=(1000, width)) for name, width in manifest.widths.items()}
        manifest.shards.append(write_shard(tmp_path, f"s{number}.safetensors", keys, content))
    manifest.write(tmp_path)
    every = keys_of(0, 16_000)
    reader = open_store(tmp_path).reader([every[i] for i in rng.permutation(16_000)])
    batches = [rng.choice(16_000, 32, replace=False) for _ in range(50)]
    times = []
    for batch in batches:
        started = time.perf_counter()
        reader.read(batch)
        times.append(time.perf_counter() - started)
    assert np.median(times) < 0.002
