from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from torch import nn

import tiny
from attar import storage
from attar.errors import StorageError, StoreError, TeacherError
from attar.recipe.teacher import StoredTeacherSpec
from attar.signals import HiddenKey, Wanted, ask
from attar.teachers import labelling
from attar.teachers.labelling import label, store_folder
from attar.teachers.local import from_module
from attar.teachers.scoring import length_groups, row_costs, token_batches
from attar.teachers.store import open_store, prune
from attar.teachers.stored import find_rescorer, open_stored, spot_check, stored_processor
from teachers.tiny_texts import LABELS, rows

WANTED = Wanted(hidden=(HiddenKey(-1, "mean"), HiddenKey(0, "first")))
FACTS = {"teacher": "abc", "max_length": 32}


def data(task, tokenizer, *tables):
    named = zip(("train", "validation", "test"), tables, strict=False)
    return {name: (task.encode(table, tokenizer), task.content_keys(table)) for name, table in named}


def make(teacher, task, tokenizer, place: Path, *tables, wanted: Wanted = WANTED, **options):
    options = {"shard_rows": 16, "batch_tokens": 128} | options
    return label(teacher, task, data(task, tokenizer, *tables), wanted, place, FACTS, **options)


def bits(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.glob("*.safetensors")}


def test_the_store_says_what_the_model_says(teacher, task, tokenizer, tmp_path):
    table = rows(60)
    store = make(teacher, task, tokenizer, tmp_path, table)
    assert store.path.parent == tmp_path / "signals"
    assert store.manifest.offers == ("logits", "hidden:0:first", "hidden:2:mean")
    assert store.manifest.labels == LABELS
    encoded, keys = data(task, tokenizer, table)["train"]
    reader = store.reader(keys)
    chosen = np.random.default_rng(0).permutation(60)[:17]
    live = ask(teacher.model, task.batch(encoded, chosen, tokenizer), teacher.resolve(WANTED))
    stored = reader.read(chosen)
    torch.testing.assert_close(stored.logits, live.logits, rtol=1e-5, atol=1e-5)
    assert stored.hidden.keys() == live.hidden.keys()
    for key, value in live.hidden.items():
        torch.testing.assert_close(stored.hidden[key], value, rtol=1e-5, atol=1e-5)


def test_equal_rows_are_asked_once_and_found_by_both(teacher, task, tokenizer, tmp_path):
    table = rows(20)
    twice = concatenate_datasets([table, table.select([3, 3, 5])])
    told: list[int] = []
    store = make(teacher, task, tokenizer, tmp_path, twice, table, progress=lambda _, done, total: told.append(total))
    assert len(store) == 20
    assert set(told) == {20}
    keys = task.content_keys(twice)
    assert store.rows(keys)[20] == store.rows(keys)[3]


def test_a_second_call_asks_nothing_and_more_rows_are_added(teacher, task, tokenizer, tmp_path):
    first = make(teacher, task, tokenizer, tmp_path, rows(40))
    before = bits(first.path)
    asked: list[int] = []
    make(teacher, task, tokenizer, tmp_path, rows(40), progress=lambda _, done, total: asked.append(done))
    assert asked == []
    store = make(teacher, task, tokenizer, tmp_path, rows(40), rows(10, seed=7))
    assert len(store) == 50
    assert before.items() <= bits(store.path).items()


def test_other_facts_or_signals_make_another_store(teacher, task, tokenizer, tmp_path):
    one = make(teacher, task, tokenizer, tmp_path, rows(5))
    other = make(teacher, task, tokenizer, tmp_path, rows(5), wanted=Wanted())
    assert one.path != other.path


def test_an_interrupted_run_goes_on_to_the_same_bits(teacher, task, tokenizer, tmp_path, monkeypatch):
    whole = make(teacher, task, tokenizer, tmp_path / "whole", rows(70), rows(20, seed=3))
    real, written = labelling.write_shard, []

    def dies(*args):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(args[1])
        return real(*args)

    monkeypatch.setattr(labelling, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        make(teacher, task, tokenizer, tmp_path / "cut", rows(70), rows(20, seed=3))
    monkeypatch.setattr(labelling, "write_shard", real)
    totals: list[int] = []
    tell = lambda _, done, total: totals.append(total)  # noqa: E731
    cut = make(teacher, task, tokenizer, tmp_path / "cut", rows(70), rows(20, seed=3), progress=tell)
    assert totals[0] == 90 - 3 * 16
    assert bits(cut.path) == bits(whole.path)


def test_pruned_shards_alone_are_made_again_with_the_same_bits(teacher, task, tokenizer, tmp_path):
    store = make(teacher, task, tokenizer, tmp_path, rows(60))
    before = bits(store.path)
    victim = store.path / store.manifest.shards[1].name
    content = bytearray(victim.read_bytes())
    content[-5] ^= 1
    victim.write_bytes(content)
    with pytest.raises(StoreError, match=victim.name):
        make(teacher, task, tokenizer, tmp_path, rows(60))
    prune(store.path)
    totals: list[int] = []
    again = make(teacher, task, tokenizer, tmp_path, rows(60), progress=lambda _, done, total: totals.append(total))
    assert set(totals) == {16}
    assert bits(again.path) == before


KILLED = """
import os, sys
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
from pathlib import Path
import tiny
from attar.recipe.task import TextClassificationSpec
from attar.tasks import make_task
from attar.teachers import labelling
from attar.teachers.local import from_module
from teachers.test_labelling import make
from teachers.tiny_texts import LABELS, rows
from attar import storage
real, count = os.fsync, []
def fsync(handle):
    count.append(1)
    if len(count) == {at}:
        os.kill(os.getpid(), 9)
    return real(handle)
storage.os.fsync = fsync
tokenizer = tiny.tiny_tokenizer(rows(300)["text"])
task = make_task(TextClassificationSpec(kind="text_classification", max_length=32), LABELS)
make(from_module(tiny.tiny_bert(tokenizer, LABELS), tokenizer, task), task, tokenizer, Path({out!r}), rows(60))
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3, 4, 5])
def test_kill_9_anywhere_and_the_same_command_again(teacher, task, tokenizer, tmp_path, at):
    """Dies while a shard (odd) or the manifest (even) is written."""
    code = KILLED.format(tests=str(Path(__file__).parents[1]), out=str(tmp_path / "cut"), at=at)
    died = subprocess.run([sys.executable, "-c", code], check=False)
    assert died.returncode == -signal.SIGKILL
    totals: list[int] = []
    cut = make(teacher, task, tokenizer, tmp_path / "cut", rows(60), progress=lambda _, d, t: totals.append(t))
    assert totals[0] == 60 - 16 * ((at - 1) // 2)
    whole = make(teacher, task, tokenizer, tmp_path / "whole", rows(60))
    assert bits(cut.path).items() >= bits(whole.path).items()
    assert bits(cut.path) == bits(whole.path)


def test_a_full_disk_is_a_storage_error_and_keeps_what_is_done(teacher, task, tokenizer, tmp_path, monkeypatch):
    real, count = storage.os.fsync, []

    def full(handle):
        count.append(1)
        if len(count) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle)

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        make(teacher, task, tokenizer, tmp_path, rows(60))
    monkeypatch.setattr(storage.os, "fsync", real)
    totals: list[int] = []
    make(teacher, task, tokenizer, tmp_path, rows(60), progress=lambda _, done, total: totals.append(total))
    assert totals[0] == 60 - 32


def test_unpooled_hidden_states_are_refused(teacher, task, tokenizer, tmp_path):
    with pytest.raises(StoreError, match="pool: none"):
        make(teacher, task, tokenizer, tmp_path, rows(5), wanted=Wanted(hidden=(HiddenKey(1, "none"),)))


def test_nan_from_the_teacher_names_the_row(task, tokenizer, tmp_path):
    model = tiny.tiny_bert(tokenizer, LABELS)
    table = rows(30)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[tokenizer.convert_tokens_to_ids("plastic")] = float("nan")
    teacher = from_module(model, tokenizer, task)
    with pytest.raises(TeacherError, match=r"train row \d+: the teacher's logits have NaN") as caught:
        make(teacher, task, tokenizer, tmp_path, table)
    row = int(str(caught.value).split("row ")[1].split(":")[0])
    assert "plastic" in table["text"][row].split()


def test_nan_in_the_inputs_names_the_row(image_task, tmp_path, monkeypatch):
    labels = [0, 1, 0]
    teacher = from_module(tiny.tiny_image_model(("dark", "light")), tiny.tiny_image_processor(), image_task)
    table = Dataset.from_dict({"image": tiny.tiny_images(labels), "label": labels})
    encoded, keys = image_task.encode(table, teacher.processor), image_task.content_keys(table)
    real = type(image_task).batch

    def broken(self, encoded, rows, processor):
        found = real(self, encoded, rows, processor)
        found["pixel_values"][list(rows).index(1), 0, 0, 0] = float("inf")
        return found

    monkeypatch.setattr(type(image_task), "batch", broken)
    with pytest.raises(TeacherError, match="train row 1: input `pixel_values` has NaN or infinite"):
        label(teacher, image_task, {"train": (encoded, keys)}, Wanted(), tmp_path, FACTS)


def test_a_teacher_with_another_number_of_answers_is_refused(task, tokenizer, tmp_path):
    class Wide(nn.Module):
        def forward(self, input_ids, attention_mask, token_type_ids=None):
            return torch.zeros(len(input_ids), 5)

    with pytest.raises(TeacherError, match=r"logits of shape \(4, 5\); the task has 3 labels"):
        make(from_module(Wide(), tokenizer, task), task, tokenizer, tmp_path, rows(4), wanted=Wanted())


def test_batches_keep_the_budget_and_cover_every_row():
    lengths = np.random.default_rng(0).integers(1, 60, 500).astype(float)
    batches = list(token_batches(lengths, 256))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(len(b) * lengths[b].max() <= 256 or len(b) == 1 for b in batches)
    padded = sum(len(b) * lengths[b].max() for b in batches)
    assert padded < 1.1 * lengths.sum()
    assert [len(b) for b in token_batches(np.array([500.0, 1.0]), 100)] == [1, 1]


def test_images_cost_their_pixels(image_task):
    table = Dataset.from_dict({"image": tiny.tiny_images([0, 1]), "label": [0, 1]})
    encoded = image_task.encode(table, tiny.tiny_image_processor())
    assert row_costs(encoded).tolist() == [0.064, 0.064]


def test_training_groups_are_of_like_length_and_cover_every_row():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 321)
    groups = length_groups(lengths, 16, rng)
    assert sorted(np.concatenate(groups).tolist()) == list(range(321))
    assert min(len(g) for g in groups) > 1
    spread = np.mean([np.ptp(lengths[g]) for g in groups])
    assert spread < 10


def test_spot_check_agrees_with_the_teacher_that_made_it(teacher, task, tokenizer, tmp_path):
    table = rows(30)
    store = make(teacher, task, tokenizer, tmp_path, table)
    assert spot_check(store, teacher, task, table, n=7) < 1e-4
    assert spot_check(store, teacher, task, table, n=0) == 0.0


def test_spot_check_finds_another_teacher(teacher, task, tokenizer, tmp_path):
    table = rows(30)
    store = make(teacher, task, tokenizer, tmp_path, table)
    other = from_module(tiny.tiny_bert(tokenizer, LABELS, seed=1), tokenizer, task)
    with pytest.raises(StoreError, match=r"row \d+ .*differs from what .* says now"):
        spot_check(store, other, task, table)
    wide = from_module(tiny.tiny_bert(tokenizer, LABELS, hidden=48), tokenizer, task)
    with pytest.raises(StoreError, match="32 wide, but"):
        spot_check(store, wide, task, table)


def test_a_stored_teacher_is_opened_checked_and_rescored(classifier_folder, teacher, task, tokenizer, tmp_path):
    make(teacher, task, tokenizer, tmp_path, rows(20), about={"folder": str(classifier_folder)})
    spec = StoredTeacherSpec.model_validate({"kind": "stored", "path": str(tmp_path)})
    store = open_stored(spec, task, Wanted())
    found = find_rescorer(spec, store, task)
    assert found is not None
    assert spot_check(store, found, task, rows(20)) < 1e-4
    with pytest.raises(StoreError, match="offers"):
        open_stored(spec, task, Wanted(hidden=(HiddenKey(1, "first"),)))


def test_the_tokenizer_lies_in_the_store(teacher, task, tokenizer, tmp_path):
    place = store_folder(teacher, task, WANTED, tmp_path / "here", FACTS)
    made = make(teacher, task, tokenizer, tmp_path / "here", rows(20))
    assert made.path == place
    moved = open_store(shutil.move(place, tmp_path / "there"))
    text = list(rows(1)["text"])
    assert stored_processor(moved, task)(text)["input_ids"] == tokenizer(text)["input_ids"]
    shutil.rmtree(moved.path / "processor")
    with pytest.raises(StoreError, match=r"processor: is missing.*whole\s+folder"):
        stored_processor(moved, task)


def test_without_a_model_there_is_no_rescorer(teacher, task, tokenizer, tmp_path):
    make(teacher, task, tokenizer, tmp_path, rows(20), about={"folder": "/nowhere"})
    spec = StoredTeacherSpec.model_validate({"kind": "stored", "path": str(tmp_path)})
    assert find_rescorer(spec, open_store(tmp_path), task) is None
