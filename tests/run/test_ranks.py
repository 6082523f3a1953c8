"""The processes of a run, seen from one: what it does alone, and how an error of the first reaches the others."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from attar.errors import AttarError, MissingExtra, ParityError, PlanError, TrainingError
from attar.ranks import ALONE, Ranks, _packed, _unpacked, joined
from attar.recipe.training import TrainingSpec
from attar.training.arguments import training_arguments


@pytest.mark.parametrize(
    "error", [PlanError(["one", "two"]), MissingExtra("peft", "lora", "a student with LoRA"), ParityError("unlike")]
)
def test_an_error_arrives_as_it_was_raised(error: AttarError) -> None:
    found = _unpacked(*pickle.loads(pickle.dumps(_packed(error))))
    assert type(found) is type(error)
    assert (str(found), found.exit_code, found.told) == (str(error), error.exit_code, True)
    assert getattr(found, "problems", None) == getattr(error, "problems", None)
    assert not error.told


def test_another_kind_of_error_is_named() -> None:
    found = _unpacked(*_packed(ZeroDivisionError("by zero")))
    assert str(found) == "the first process stopped: ZeroDivisionError: by zero"


def test_alone_a_process_is_first_and_waits_for_nobody() -> None:
    assert ALONE.first
    assert ALONE.by_first(lambda: 3) == 3
    ALONE.require_same("key", "a key")
    with joined(1.0) as ranks:
        assert ranks is ALONE


def test_processes_must_see_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    second = Ranks(2, 1)
    monkeypatch.setattr(second, "by_first", lambda work: "a" * 64)
    second.require_same("a" * 64, "what the stage data read")
    with pytest.raises(TrainingError, match=r"process 1 of 2: what the stage data read is not .* \(bbbbbbbbbbbb, not"):
        second.require_same("b" * 64, "what the stage data read")


def test_processes_that_find_nobody_say_how_they_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TrainingError, match="Start them with torchrun"), joined(1.0):
        pass


def test_modes_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanError, match=r'parallel: "fsdp" shards weights over processes, and there is one. Start'):
        training_arguments(TrainingSpec(device="cpu", parallel="fsdp"), 1, tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    with pytest.raises(PlanError, match="torchrun gives each process its own"):
        training_arguments(TrainingSpec(device="cuda:1"), 1, tmp_path)
