"""Two processes that write answers are one with twice the batch, where what is written leaves nothing to chance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attar.facts import TrainingFacts
from attar.recipe.objectives import HardLabelsSpec
from training.rollout_parts import REVERSE, rollouts, trained

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]


def fit(out: Path, *, temperature: float, batch_size: int) -> tuple[dict[str, torch.Tensor], TrainingFacts]:
    """Answers of many lengths, in half of the steps."""
    return trained(
        out, REVERSE, HardLabelsSpec(kind="hard_labels"), batch_size=batch_size, log=out.with_suffix(".jsonl"),
        written=rollouts(fraction=0.6, temperature=temperature, max_new_tokens=12),
    )  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    out = tmp_path_factory.mktemp("two")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d",
        "--rdzv_endpoint", "localhost:0", __file__, str(out),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def test_two_processes_are_one(two: Path, tmp_path: Path) -> None:
    """At a temperature of nearly 0 the likeliest token is drawn, whoever draws."""
    weights, facts = fit(tmp_path / "one", temperature=1e-4, batch_size=8)
    assert facts.rollouts is not None
    for rank in (0, 1):
        found = torch.load(two / f"cold-{rank}.pt", weights_only=True)
        for name, own in weights.items():
            torch.testing.assert_close(found[name], own, rtol=1e-3, atol=1e-5, msg=name)
    lines = [json.loads(line) for line in (two / "cold.jsonl").read_text().splitlines()]
    told = [line["rollouts"] for line in lines if "rollouts" in line]
    assert sum(one["texts"] for one in told) == facts.rollouts.texts
    mean = sum(one["texts"] * one["length"] for one in told) / facts.rollouts.texts
    assert mean == pytest.approx(facts.rollouts.length)


def test_processes_agree_where_they_draw(two: Path) -> None:
    first, second = (torch.load(two / f"warm-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def main() -> None:
    """One process of two."""
    out, rank = Path(sys.argv[1]), os.environ["RANK"]
    torch.set_num_threads(1)
    for name, temperature in (("cold", 1e-4), ("warm", 1.0)):
        weights, _ = fit(out / name, temperature=temperature, batch_size=4)
        torch.save(weights, out / f"{name}-{rank}.pt")
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
