"""Where the memory runs out: what is told, the exit code, and that what is finished is kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_parts import make

import attar
from attar.cli import main
from attar.errors import EXIT_CODES, OutOfMemory
from attar.facts import TrainingFacts
from attar.recipe.load import load_recipe
from attar.shortage import advice_for, enough_memory, ran_out

CPU = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((1,), np.dtype("float32")),
        RuntimeError(CPU),
        torch.OutOfMemoryError(CUDA),
        RuntimeError("[enforce fail at CPUAllocator.cpp] . DefaultCPUAllocator: not enough memory: you tried"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_allocator_is_understood(error: Exception) -> None:
    assert ran_out(error)
    with pytest.raises(OutOfMemory, match=r"^signals: the memory ran out \(.+\)\. Lower it\. What is finished is kept"):
        with enough_memory("signals", "Lower it."):
            raise error


def test_a_real_allocation_that_cannot_be() -> None:
    with pytest.raises(OutOfMemory, match="training"), enough_memory("training", "Lower it."):
        torch.empty(2**60)


def test_other_errors_pass() -> None:
    for error in (RuntimeError("shapes do not fit"), ValueError("out of memory"), KeyboardInterrupt()):
        assert not ran_out(error)
        with pytest.raises(type(error)), enough_memory("x", "y"):
            raise error


def test_training_that_lacks_memory_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path, training={"max_steps": 2, "batch_size": 8, "control": True, "accumulate": 3})
    plain, out = attar.seeds.train, tmp_path / "out"

    def short(*given: Any, **options: Any) -> TrainingFacts:
        if options["phase"] == "control":
            raise torch.OutOfMemoryError(CUDA)
        return plain(*given, **options)

    monkeypatch.setattr("attar.seeds.train", short)
    monkeypatch.setattr(sys, "argv", ["attar", "distill", str(path), "--out", str(out)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == OutOfMemory.exit_code == 11
    assert 11 in EXIT_CODES
    told = capsys.readouterr().err
    assert "attar: 0/control: the memory ran out (CUDA out of memory" in told
    assert (
        "Lower training.batch_size (8 to 4, with training.accumulate 6 for the same step), lower task.max_length (32)"
        in told
    )
    assert "set training.activation_checkpointing: true" in told
    monkeypatch.setattr("attar.seeds.train", plain)
    facts = attar.distill(path, out)
    assert {stage.name: stage.cached for stage in facts.stages if "/" in stage.name}["0/student"]


def test_evaluation_and_labelling_that_lack_memory_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any, **__: Any) -> Any:
        raise RuntimeError(CPU)

    path = make(tmp_path, training={"max_steps": 1, "batch_size": 8, "control": False})
    with monkeypatch.context() as patched:
        patched.setattr("attar.seeds._answer", short)
        with pytest.raises(OutOfMemory, match=r"0/answers: .* Lower task.max_length \(32\), close other programs"):
            attar.distill(path, tmp_path / "out")
    path.write_text(path.read_text().replace('"licence"', '"signals": "store", "licence"', 1))
    monkeypatch.setattr("attar.language_store.label_tokens", short)
    with pytest.raises(OutOfMemory, match=r"signals: .* Lower teacher.batch_tokens \(8192\), or lower task.max_len"):
        attar.distill(path, tmp_path / "stored")


def test_a_batch_of_one_is_not_lowered(tmp_path: Path) -> None:
    path = make(tmp_path, training={"batch_size": 1, "activation_checkpointing": True, "precision": "bf16"})
    advice = advice_for(load_recipe(path), "0/student")
    assert advice == "Lower task.max_length (32), or make the student smaller."
