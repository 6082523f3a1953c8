"""Runs that are killed with SIGKILL, in processes of their own, and taken up again."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from attar.recipe.training import TrainingSpec
from training.parts import Interrupted, fit, same_bits, spec, student

# 10 steps, 5 an epoch; checkpoints at steps 2, 4, 6, 8, 10; evaluations too, before the checkpoints.
TRAINING = spec(token_dropout=0.2, evaluations=5, checkpoints=5)
KEEP_BEST = TRAINING.model_copy(update={"keep": "best"})


def quality(model: nn.Module) -> float:
    """Deterministic, and not monotonous over the training."""
    return float(sum(p.detach().sum() for p in model.parameters())) % 1.0


def run(out: Path, training: TrainingSpec = TRAINING) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    facts, weights = fit(out / "checkpoints", training, student(dropout=0.1), evaluate=quality, log=out / "log.jsonl")
    return weights, facts.curve


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_in_evaluation(out: Path, training: TrainingSpec, number: int) -> None:
    torch.set_num_threads(1)
    calls: Iterator[int] = iter(range(1, 100))

    def evaluate(model: nn.Module) -> float:
        if next(calls) == number:
            die()
        return quality(model)

    fit(out / "checkpoints", training, student(dropout=0.1), evaluate=evaluate, log=out / "log.jsonl")


def killed_while_saving(out: Path, training: TrainingSpec, number: int) -> None:
    """In the middle of the `number`-th file that torch writes; a checkpoint has four."""
    torch.set_num_threads(1)
    save, calls = torch.save, iter(range(1, 100))

    def half(content: object, path: Path | str) -> None:
        save(content, path)
        if next(calls) == number:
            os.truncate(path, Path(path).stat().st_size // 2)
            die()

    torch.save = half  # type: ignore[assignment]
    fit(out / "checkpoints", training, student(dropout=0.1), evaluate=quality, log=out / "log.jsonl")


@pytest.fixture(scope="module")
def kill() -> Callable[..., None]:
    """Run a function in a fresh process until it kills itself."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["attar.training.train", "attar.tasks", "datasets"])

    def started(function: Callable[..., None], *args: object) -> None:
        process = processes.Process(target=function, args=args)
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL

    return started


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], str]:
    out = tmp_path_factory.mktemp("whole")
    weights, curve = run(out)
    return weights, curve, without_speed(out / "log.jsonl")


def without_speed(log: Path) -> str:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return json.dumps([{k: v for k, v in line.items() if k != "rows_per_second"} for line in lines])


def names(out: Path) -> set[str]:
    return {path.name for path in (out / "checkpoints").iterdir()}


@pytest.mark.parametrize("evaluation", [2, 4], ids=["first epoch", "second epoch"])
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, kill, whole, evaluation: int) -> None:
    kill(killed_in_evaluation, tmp_path, TRAINING, evaluation)
    assert f"checkpoint-{2 * evaluation - 2}" in names(tmp_path)
    weights, curve = run(tmp_path)
    assert same_bits(weights, whole[0])
    assert curve == whole[1]
    assert without_speed(tmp_path / "log.jsonl") == whole[2]


@pytest.mark.parametrize("file", [5, 7], ids=["weights", "schedule"])
def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path, kill, whole, file: int) -> None:
    kill(killed_while_saving, tmp_path, TRAINING, file)
    assert names(tmp_path) == {"checkpoint-2", ".checkpoint-4.partial"}
    weights, curve = run(tmp_path)
    assert same_bits(weights, whole[0])
    assert curve == whole[1]
    assert names(tmp_path) == {"checkpoint-8", "checkpoint-10"}


def test_the_best_weights_survive_a_kill(tmp_path: Path, kill) -> None:
    weights, _ = run(tmp_path / "whole", KEEP_BEST)
    kill(killed_in_evaluation, tmp_path / "killed", KEEP_BEST, 4)
    again, _ = run(tmp_path / "killed", KEEP_BEST)
    assert same_bits(weights, again)


def test_a_finished_training_is_only_loaded(tmp_path: Path, whole) -> None:
    first, _ = run(tmp_path)
    before = (tmp_path / "log.jsonl").read_text()
    model, seen = student(dropout=0.1), []
    facts, weights = fit(
        tmp_path / "checkpoints", TRAINING, model, evaluate=quality, log=tmp_path / "log.jsonl",
        progress=lambda *told: seen.append(told),
    )  # fmt: skip
    assert same_bits(weights, first)
    assert same_bits(weights, whole[0])
    assert facts.curve == whole[1]
    assert facts.steps == 10
    assert facts.rows_per_second > 0
    assert not seen
    assert (tmp_path / "log.jsonl").read_text() == before


def test_another_training_starts_afresh(tmp_path: Path, whole) -> None:
    fit(tmp_path / "checkpoints", TRAINING, student(), key="other", evaluate=quality)
    weights, _ = run(tmp_path)
    assert same_bits(weights, whole[0])


def test_a_resume_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"checkpoints": 2})
    weights, _ = run(tmp_path / "whole", training)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "b", training, Interrupted(7), evaluate=quality)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"checkpoint-5"}
    model = Interrupted(None)
    fit(tmp_path / "b", training, model, evaluate=quality)
    assert same_bits(dict(model.inner.state_dict()), {n: v for n, v in weights.items() if not n.startswith("terms.")})
