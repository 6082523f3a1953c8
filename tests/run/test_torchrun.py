"""`torchrun -m attar distill`: two processes carry a whole run, and one that dies is started again by torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from language_parts import make as make_language
from run_parts import make
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import attar
from attar.cli import main
from attar.facts import RunFacts
from attar.training.callbacks import Schedule

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
TRAINING = {"epochs": 3, "batch_size": 4, "learning_rate": 0.01, "evaluations": 2, "checkpoints": 3}
GGUF = [{"kind": "gguf", "precision": "f16"}]
DIES_AT = 8
DIES = "the second process kills itself\n"
Weights = dict[str, torch.Tensor]


def torchrun(*command: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """A command in two processes."""
    whole = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--max-restarts", str(restarts),
        "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", *command,
    ]  # fmt: skip
    paths = [str(TESTS), str(TESTS / "run"), str(TESTS / "training"), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run(whole, env=environment, capture_output=True, text=True, check=False, timeout=900)


def weights(out: Path, role: str = "student") -> Weights:
    return load_file(out / role / "model.safetensors")


Ran = Callable[[str], tuple[Path, RunFacts, subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A language model's run by two processes that share the training in a mode: its recipe and what came of it."""

    @cache
    def run(mode: str) -> Any:
        root = tmp_path_factory.mktemp(mode)
        path = make_language(root, export=GGUF, training={**TRAINING, "parallel": mode})
        done = torchrun("-m", "attar", "distill", str(path), "--out", str(root / "out"))
        assert done.returncode == 0, done.stderr[-4000:]
        return path, RunFacts.model_validate_json((root / "out" / "run.json").read_text()), done

    return run


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunFacts]:
    """The same by one process with twice the rows in a batch."""
    root = tmp_path_factory.mktemp("one")
    facts = attar.distill(make_language(root, export=GGUF, training={**TRAINING, "batch_size": 8}), root / "out")
    return root / "out", facts


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_a_language_model_is_distilled_by_two_processes(mode: str, two: Ran, one: tuple[Path, RunFacts]) -> None:
    path, facts, done = two(mode)
    out = path.parent / "out"
    assert done.stdout.count("report: ") == 1
    assert done.stderr.count("0/student …") == 1
    for role in ("student", "control"):
        assert (facts.training[role].processes, facts.training[role].parallel) == (2, mode)
    expected = one[1]
    assert facts.quality.student == pytest.approx(expected.quality.student, rel=1e-4)
    assert facts.quality.control == pytest.approx(expected.quality.control, rel=1e-4)
    assert facts.artifacts[0].bytes == expected.artifacts[0].bytes
    for name, weight in weights(one[0]).items():
        torch.testing.assert_close(weights(out)[name], weight, rtol=1e-2, atol=1e-3, msg=name)
    assert not AutoModelForCausalLM.from_pretrained(out / "student").training
    again = attar.distill(path, out)  # in one process: all is done
    assert all(stage.cached for stage in again.stages if stage.name != "data")


def test_a_process_that_dies_is_started_again(two: Ran, tmp_path: Path) -> None:
    """The second one kills itself once, in the second epoch; what comes of it is the same to the bit."""
    path, _, _ = two("ddp")
    done = torchrun(__file__, "distill", str(path), "--out", str(tmp_path), restarts=1)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("0/student …") == 2
    assert done.stderr.count(DIES) == 1  # torchrun may name the first process, which misses the second, instead
    for role in ("student", "control"):
        whole, resumed = weights(path.parent / "out", role), weights(tmp_path, role)
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    steps = RunFacts.model_validate_json((tmp_path / "run.json").read_text()).training["student"]
    assert steps.processes == 2


def test_a_classifier_is_distilled_by_two_processes(tmp_path: Path) -> None:
    """The first process fits the teacher, augments and labels; both train, on stored signals."""
    path = make(tmp_path, training={**TRAINING, "batch_size": 8})
    done = torchrun("-m", "attar", "distill", str(path), "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-4000:]
    facts = RunFacts.model_validate_json((tmp_path / "two" / "run.json").read_text())
    assert facts.training["student"].processes == 2
    one = attar.distill(path, tmp_path / "one", overrides=["training.batch_size=16"])
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-2, atol=1e-3, msg=name)
    assert facts.quality.student == pytest.approx(one.quality.student, abs=0.03)


def test_what_is_wrong_is_told_once(tmp_path: Path) -> None:
    path = make(tmp_path, student={"kind": "from_teacher", "layers": 9})
    done = torchrun("-m", "attar", "distill", str(path), "--out", str(tmp_path / "out"))
    assert done.returncode != 0
    assert done.stderr.count("student.layers") == 1
    assert done.stderr.count("Traceback") == 1  # torchrun's own


def _die_once() -> None:
    """Let the second process kill itself in a step, where torchrun did not start it again."""
    plain = Schedule.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        first_time = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if os.environ["RANK"] == "1" and first_time and state.global_step == DIES_AT:
            os.write(2, DIES.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, args, state, control, **more)

    Schedule.on_step_end = on_step_end  # type: ignore[method-assign]


if __name__ == "__main__":
    _die_once()
    main()
