"""Students with LoRA: what they are at birth, what is learned, what comes of it in the end."""

from __future__ import annotations

import sys
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from attar.errors import MissingExtra, PlanError
from attar.heads import head_of
from attar.recipe.objectives import ForwardKLSpec, HiddenSpec
from attar.recipe.student import LoraSpec
from attar.recipe.training import TrainingSpec
from attar.students.lora import adapt, merge
from attar.students.student import Student
from attar.training.train import make_trainer, train
from training.test_language import ENCODED, SETTINGS, TASK, TOKENIZER, rows, student, terms_of

pytest.importorskip("peft", reason="peft is not installed")

SPEC = LoraSpec(rank=2, alpha=8.0)
BATCH = TASK.batch(ENCODED, range(4), TOKENIZER)


def adapted(spec: LoraSpec = SPEC, seed: int = 0) -> Student:
    return adapt(Student(student(), TOKENIZER, {"init": "recipe"}), spec, seed)


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(**BATCH).logits


def trained(where: Path, **changes: Any) -> torch.nn.Module:
    made, terms = adapted(), terms_of(ForwardKLSpec(kind="forward_kl"), HiddenSpec(kind="hidden", weight=0.1))
    spec = TrainingSpec(**SETTINGS | {"learning_rate": 0.1} | changes)
    train(made.model, terms, TASK, rows(terms), spec, where, key="k", evaluate=lambda _: 0.0)
    return made.model


def test_at_birth_it_is_the_student_that_it_would_be_without() -> None:
    assert torch.equal(logits(adapted().model), logits(student()))


def test_the_matrices_alone_are_learned_and_drawn_from_the_seed() -> None:
    made = adapted()
    learned = {name: p for name, p in made.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in learned)
    # 2 layers; q and o 16 x 16, k and v 16 -> 8, gate and up 16 -> 32, down 32 -> 16; each in + out, times the rank
    assert made.initial == {"init": "recipe", "lora_parameters": 2 * 2 * (2 * 32 + 2 * 24 + 3 * 48)}
    assert sum(p.numel() for p in learned.values()) == made.initial["lora_parameters"]
    same, other = (dict(adapted(seed=seed).model.named_parameters()) for seed in (0, 1))
    drawn = [name for name in learned if "lora_A" in name]
    assert all(torch.equal(learned[name], same[name]) for name in drawn)
    assert not any(torch.equal(learned[name], other[name]) for name in drawn)


def test_no_gradient_of_the_head_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, sizes = adapted(), list[int]()
    terms = terms_of(ForwardKLSpec(kind="forward_kl"))
    trainer = make_trainer(made.model, terms, TASK, rows(terms), TrainingSpec(**SETTINGS), tmp_path, key="k")
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, **k: sizes.append(zeros(*a, **k).numel()) or zeros(*a, **k))
    batch = trainer.micro_batch(next(iter(trainer.batches)))
    loss, _ = trainer.distil(**batch, counts={"forward_kl": 1.0})
    loss.backward()
    head = head_of(made.model).weight
    assert head.grad is None
    assert head.numel() not in sizes


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 reads it
def test_what_was_learned_is_added_to_plain_weights(tmp_path: Path) -> None:
    """Against the formula: W + alpha / rank B A, for each target, in another hand."""
    from peft import PeftModel

    model = trained(tmp_path / "training")
    said, parts = logits(model), {name: p.detach().clone() for name, p in model.named_parameters()}
    merged = merge(model, tmp_path / "adapter")
    assert type(merged) is LlamaForCausalLM
    for name, before in student().state_dict().items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        expected = before
        if (a := parts.get(f"{stem}.lora_A.default.weight")) is not None:
            expected = before + 8.0 / 2 * parts[f"{stem}.lora_B.default.weight"] @ a
            assert not torch.equal(expected, before), name
        torch.testing.assert_close(merged.state_dict()[name], expected, msg=name)
    torch.testing.assert_close(logits(merged), said, rtol=1e-4, atol=1e-5)
    again = PeftModel.from_pretrained(student(), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), said)


def test_a_resumed_training_ends_in_the_same_bits(tmp_path: Path) -> None:
    """Its checkpoints hold what is learned, and nothing that is frozen."""
    whole = trained(tmp_path / "whole", checkpoints=3, keep="best")
    made, calls = adapted(), count(1)
    terms = terms_of(ForwardKLSpec(kind="forward_kl"), HiddenSpec(kind="hidden", weight=0.1))

    def interrupt(layer: torch.nn.Module, *_: object) -> None:
        if layer.training and next(calls) == 5:
            raise KeyboardInterrupt

    layer = made.model.get_base_model().model.layers[0]  # type: ignore[operator,union-attr]
    layer.register_forward_pre_hook(interrupt)
    spec = TrainingSpec(**SETTINGS, checkpoints=3, keep="best").model_copy(update={"learning_rate": 0.1})
    with pytest.raises(KeyboardInterrupt):
        train(made.model, terms, TASK, rows(terms), spec, tmp_path / "cut", key="k", evaluate=lambda _: 0.0)
    kept = torch.load(tmp_path / "cut" / "checkpoint-4" / "weights.pt", weights_only=True)
    assert {name.split(".")[0] for name in kept if "lora_" not in name} == {"terms"}
    again = trained(tmp_path / "cut", checkpoints=3, keep="best")
    ours, theirs = whole.state_dict(), again.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_chosen_targets_with_dropout_and_recomputed_layers(tmp_path: Path) -> None:
    spec = LoraSpec(rank=1, targets=("q_proj", "mlp.down_proj"), dropout=0.5)
    made, terms = adapted(spec), terms_of(ForwardKLSpec(kind="forward_kl"))
    learned = [name for name, p in made.model.named_parameters() if p.requires_grad]
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in learned} == {"q_proj", "down_proj"}
    settings = TrainingSpec(**SETTINGS, activation_checkpointing=True)
    before = deepcopy(made.model.state_dict())
    train(made.model, terms, TASK, rows(terms), settings, tmp_path, key="k")
    moved = {name for name, value in made.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(learned)


@pytest.mark.parametrize("target", ["lm_head", "q_prj", "norm"])
def test_targets_that_are_no_layers_are_refused(target: str) -> None:
    with pytest.raises(PlanError, match=f"{target} names no linear layer of LlamaForCausalLM .* Allowed: down_proj"):
        adapted(LoraSpec(targets=("q_proj", target)))


def test_without_peft_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r'pip install "attar\[lora\]"'):
        adapted()
