"""Two processes train a language model as one does with twice the batch: each with all weights (DDP), or sharded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attar.facts import TrainingFacts
from attar.recipe.objectives import ForwardKLSpec, HardLabelsSpec, HiddenSpec
from attar.recipe.rollouts import RolloutsSpec
from attar.recipe.student import LoraSpec
from attar.recipe.training import TrainingSpec
from attar.students.lora import adapt
from attar.students.student import Student
from attar.training.rows import LiveTeacher, TrainingRows
from attar.training.train import train
from tiny_language import tiny_llama
from training.test_language import ENCODED, TASK, TOKENIZER, student, terms_of

pytest.importorskip("peft", reason="peft is not installed")
pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
SPECS = (
    ForwardKLSpec(kind="forward_kl", temperature=2.0),
    HardLabelsSpec(kind="hard_labels", weight=0.5),
    HiddenSpec(kind="hidden", pool="none", weight=0.1),
)
"""With a head that is tied, and a projector."""
SETTINGS: dict[str, Any] = {
    "learning_rate": 0.01, "max_steps": 6, "device": "cpu", "evaluations": 2, "checkpoints": 3, "keep": "best"
}  # fmt: skip
ONE = {"batch_size": 8, "accumulate": 1}
TWO = {"batch_size": 2, "accumulate": 2}
MODES = ("ddp", "fsdp")
WRITTEN = RolloutsSpec(fraction=1.0, cold_start=0.0, max_new_tokens=8)
LORA: dict[str, Any] = {"lora": True, "activation_checkpointing": True}
State = dict[str, torch.Tensor]


def value(model: nn.Module) -> float:
    """Higher from step to step, so that the last weights are the best."""
    return -float(model.get_input_embeddings().weight.detach().square().sum())  # type: ignore[operator,union-attr]


def fit(
    out: Path,
    *,
    dropout: float = 0.0,
    hook: Callable[..., None] | None = None,
    rollouts: RolloutsSpec | None = None,
    lora: bool = False,
    **changes: Any,
) -> tuple[TrainingFacts, State]:
    """Train in float64; all final weights, projectors included."""
    model, terms = student().double(), terms_of(*SPECS).double()
    model.config.attention_dropout = dropout
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = dropout
    if hook is not None:
        model.model.layers[0].register_forward_pre_hook(hook)
    model = adapt(Student(model, TOKENIZER, {}), LoraSpec(rank=4), 0).model if lora else model
    live = LiveTeacher(tiny_llama(TOKENIZER).double(), ENCODED, TOKENIZER, terms.wanted_teacher)
    rows, spec = TrainingRows(ENCODED, TOKENIZER, live=live), TrainingSpec(**SETTINGS | changes)
    facts = train(model, terms, TASK, rows, spec, out, key="k", evaluate=value, rollouts=rollouts)
    return facts, {**model.state_dict(), **{f"terms.{n}": p for n, p in terms.state_dict().items()}}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    out = tmp_path_factory.mktemp("two")
    command = [
        sys.executable, "-W", "error::UserWarning:attar", "-m", "torch.distributed.run", "--nproc_per_node", "2",
        "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", __file__, str(out),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingFacts, State]:
    return fit(tmp_path_factory.mktemp("one"), **ONE)


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_are_one(mode: str, one: tuple[TrainingFacts, State], two: Path) -> None:
    facts, weights = one
    assert (facts.processes, facts.parallel) == (1, None)
    for rank in (0, 1):
        found = torch.load(two / f"{mode}-{rank}.pt", weights_only=True)
        theirs = TrainingFacts.model_validate_json((two / f"{mode}-{rank}.json").read_text())
        assert (theirs.processes, theirs.parallel) == (2, mode)
        assert found.keys() == weights.keys()
        for name, own in weights.items():
            torch.testing.assert_close(found[name], own, rtol=1e-9, atol=1e-10, msg=name)
        assert theirs.best_step == facts.best_step
        for point, other in zip(facts.curve, theirs.curve, strict=True):
            assert other.pop("loss") == pytest.approx(point["loss"], rel=1e-6)  # a sum in float32
            assert other == pytest.approx({name: v for name, v in point.items() if name != "loss"}, rel=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_resume_in_the_same_bits(mode: str, two: Path) -> None:
    whole, cut = (torch.load(two / f"{mode}-{kind}-0.pt", weights_only=True) for kind in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    parts = {"0-weights.pt", "1-weights.pt", "0-optimizer.pt", "1-optimizer.pt"} if mode == "fsdp" else {"weights.pt"}
    assert parts <= {file.name for file in (two / f"{mode}-cut" / "checkpoint-6").iterdir()}


def test_weights_were_sharded(two: Path) -> None:
    """Each process holds half of each weight, and of what Adam keeps of it."""
    parts = [torch.load(two / "fsdp-cut" / "checkpoint-6" / f"{rank}-weights.pt") for rank in (0, 1)]
    whole = torch.load(two / "fsdp-cut-0.pt")
    for name, weight in whole.items():
        if not name.startswith("terms."):
            held = [part[f"student.{name}"] for part in parts]
            assert len(held[0]) == -(-len(weight) // 2)
            assert torch.equal(torch.cat(held), weight)


@pytest.mark.parametrize("mode", MODES)
def test_lora_with_layers_that_run_again(mode: str, two: Path, tmp_path: Path) -> None:
    """Weights that are frozen beside those that learn, in the same shards; their gradients from a second run."""
    _, weights = fit(tmp_path, **ONE, **LORA)
    found = torch.load(two / f"{mode}-lora-0.pt", weights_only=True)
    assert found.keys() == weights.keys()
    for name, own in weights.items():
        torch.testing.assert_close(found[name], own, rtol=1e-9, atol=1e-10, msg=name)
    assert any("lora_B" in name and bool(own.any()) for name, own in weights.items())


def test_what_a_sharded_student_writes_is_what_it_would_write_whole(two: Path) -> None:
    whole, sharded = (torch.load(two / f"{mode}-written-0.pt", weights_only=True) for mode in MODES)
    for name, own in whole.items():
        torch.testing.assert_close(sharded[name], own, rtol=1e-9, atol=1e-10, msg=name)


def main() -> None:
    """One process of two."""
    out, rank = Path(sys.argv[1]), os.environ["RANK"]
    torch.set_num_threads(1)
    for mode in MODES:
        facts, weights = fit(out / mode, **TWO, parallel=mode)
        torch.save(weights, out / f"{mode}-{rank}.pt")
        (out / f"{mode}-{rank}.json").write_text(facts.model_dump_json())
        _, weights = fit(out / f"{mode}-whole", dropout=0.1, **TWO, parallel=mode)
        torch.save(weights, out / f"{mode}-whole-{rank}.pt")
        for name, more in (("written", {"rollouts": WRITTEN}), ("lora", LORA)):
            _, weights = fit(out / f"{mode}-{name}", **TWO, parallel=mode, **more)
            torch.save(weights, out / f"{mode}-{name}-{rank}.pt")
        calls = count(1)

        def stop(layer: nn.Module, *_: object, calls: count[int] = calls) -> None:
            if layer.training and next(calls) == 10:  # in the fifth step
                raise KeyboardInterrupt

        try:
            fit(out / f"{mode}-cut", dropout=0.1, hook=stop, **TWO, parallel=mode)
        except KeyboardInterrupt:
            _, weights = fit(out / f"{mode}-cut", dropout=0.1, **TWO, parallel=mode)
            torch.save(weights, out / f"{mode}-cut-{rank}.pt")
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort an interpreter that ends by itself


if __name__ == "__main__":
    main()
