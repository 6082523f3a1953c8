"""Two gloo processes under torchrun are one process with twice the batch; their checkpoint resumes bit for bit."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attar.recipe.objectives import HardLabelsSpec, HiddenSpec, SampledKLSpec, TAIDSpec, WeightSchedule
from training.parts import fit, make_terms, spec, student

TESTS = Path(__file__).parents[1]
SPECS = (
    TAIDSpec(kind="taid", alpha=0.8, beta=0.9),
    SampledKLSpec(kind="sampled_kl", samples=4, weight=WeightSchedule(start=0.5, end=1.0)),
    HiddenSpec(kind="hidden"),
    HardLabelsSpec(kind="hard_labels", weight=0.5),
)
"""With a target that follows the loss of both processes, random draws, and weights that the first process balances."""
BALANCE, PROBES = "gradient_norm", 24
"""The first process asks the model for each term, in the three steps of an epoch, two micro-batches each."""


def torchrun(out: Path, *, stop: int = 0) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0",
        "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", __file__, str(out), str(stop),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def weights(out: Path, rank: int) -> dict[str, torch.Tensor]:
    return torch.load(out / f"weights-{rank}.pt", weights_only=True)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    done = torchrun(tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    _, one = fit(tmp_path / "one", spec(batch_size=16, balance=BALANCE), student().double(), terms=make_terms(*SPECS))
    for rank in (0, 1):
        two = weights(tmp_path / "two", rank)
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-9, atol=1e-10, msg=name)
    assert (tmp_path / "two" / "log.jsonl").read_text().count("\n") == 6


@pytest.mark.slow
def test_two_processes_resume(tmp_path: Path) -> None:
    assert torchrun(tmp_path / "whole").returncode == 0
    assert torchrun(tmp_path / "killed", stop=4).returncode != 0
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-3" / "complete.json").is_file()
    done = torchrun(tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    whole, resumed = weights(tmp_path / "whole", 0), weights(tmp_path / "killed", 0)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def main() -> None:
    """One process of two: student with dropout where it is to be resumed, without where it is compared with one."""
    out, stop = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    model = student(dropout=0.0 if out.name == "two" else 0.1).double()
    steps = itertools.count(1 - PROBES)

    def count(*_: object) -> None:
        if model.training and next(steps) == stop > 0 and os.environ["RANK"] == "0":  # it writes the checkpoints
            os._exit(9)

    model.register_forward_pre_hook(count)
    training = spec(batch_size=8, checkpoints=2, token_dropout=0.0, balance=BALANCE)
    _, final = fit(
        out / "checkpoints", training, model, evaluate=lambda m: 0.5, log=out / "log.jsonl", terms=make_terms(*SPECS)
    )
    torch.save(final, out / f"weights-{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main()
