from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.errors import StorageError
from attar.training.checkpoints import Checkpoints, Mark, load
from training.parts import fit, spec, student


def mark(step: int, key: str = "k", best: int | None = None) -> Mark:
    return Mark(key, step, seconds=1.0, busy=0.5, rows=10, best=best)


def written(folder: Path, step: int, key: str = "k", best: int | None = None) -> Checkpoints:
    checkpoints = Checkpoints(folder, key)
    with checkpoints.writing(mark(step, key, best)) as place:
        (place / "weights.pt").write_bytes(b"w")
    return checkpoints


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        checkpoints = written(tmp_path, step)
    assert names(tmp_path) == {"checkpoint-10", "checkpoint-100"}
    found = checkpoints.newest()
    assert found is not None
    assert found == (tmp_path / "checkpoint-100", mark(100))


def test_what_is_no_checkpoint_of_this_training_goes(tmp_path: Path) -> None:
    written(tmp_path, 3)
    written(tmp_path, 7, key="other")
    (tmp_path / "checkpoint-8").mkdir()
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-9" / "complete.json").write_text('{"key": "k"')
    (tmp_path / ".checkpoint-4.partial").mkdir()
    (tmp_path / ".best-4.pt").write_bytes(b"")
    (tmp_path / "mine.txt").write_text("")
    checkpoints = Checkpoints(tmp_path, "k")
    checkpoints.prepare()
    assert names(tmp_path) == {"checkpoint-3", "mine.txt"}
    assert Checkpoints(tmp_path, "new").newest() is None


def test_a_failed_write_leaves_the_last_one(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 1)

    def write() -> None:
        with checkpoints.writing(mark(2)) as place:
            (place / "weights.pt").write_bytes(b"half")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write()
    assert names(tmp_path) == {"checkpoint-1"}


def test_the_best_weights_stay_as_long_as_a_checkpoint_names_them(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "k")
    checkpoints.prepare()
    checkpoints.save_best(1, {"a": torch.ones(1)})
    written(tmp_path, 2, best=1)
    checkpoints.save_best(3, {"a": torch.zeros(1)})
    written(tmp_path, 4, best=3)
    assert names(tmp_path) == {"best-1.pt", "best-3.pt", "checkpoint-2", "checkpoint-4"}
    written(tmp_path, 5, best=3)
    assert names(tmp_path) == {"best-3.pt", "checkpoint-4", "checkpoint-5"}
    assert checkpoints.load_best(3) == {"a": torch.zeros(1)}


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("false",)


def test_a_hostile_pickle_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load(tmp_path / "weights.pt")


def test_checkpoints_over_a_training(tmp_path: Path) -> None:
    fit(tmp_path, spec(checkpoints=0), student())
    assert names(tmp_path) == {"checkpoint-10"}
    assert json.loads((tmp_path / "checkpoint-10" / "complete.json").read_text())["rows"] == 80


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 142912 vs 142800"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
    ids=["system", "torch", "stream"],
)
def test_a_full_disk_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    save, calls = torch.save, iter(range(1, 99))

    def full(*args: Any) -> None:
        if next(calls) > 5:
            raise error
        save(*args)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StorageError, match="disk is full"):
        fit(tmp_path, spec(), student())
    assert names(tmp_path) == {"checkpoint-2"}, "the room of the half-written one is free again"
