"""Training on packed batches: the steps of padded ones, whatever is compared; what is chosen, refused and put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attar.errors import PlanError
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import AttentionRelationsSpec, ForwardKLSpec, HardLabelsSpec, HiddenSpec
from attar.recipe.training import TrainingSpec
from attar.training.packing import packing
from attar.training.rows import Batch, LiveTeacher, TrainingRows
from attar.training.train import make_trainer, train
from tiny_causal import tiny_causal
from tiny_language import tiny_llama
from training.test_language import ENCODED, SETTINGS, TASK, TOKENIZER, rows, student, terms_of

KL, HARD = ForwardKLSpec(kind="forward_kl", temperature=2.0), HardLabelsSpec(kind="hard_labels", weight=0.5)
INSIDE = {
    "logits": (KL, HARD),
    "states of tokens": (HiddenSpec(kind="hidden", pool="none"), KL),
    "pooled states": (HiddenSpec(kind="hidden", pool="mean"), KL),
    "attention": (AttentionRelationsSpec(kind="attention_relations", heads=2), KL),
}


def trained(where: Path, specs: Any, **changes: Any) -> tuple[dict[str, torch.Tensor], bool]:
    model, terms = student(), terms_of(*specs)
    facts = train(model, terms, TASK, rows(terms), TrainingSpec(**SETTINGS | changes), where, key="k")
    assert model.config._attn_implementation == "sdpa"
    return model.state_dict(), facts.packed


@pytest.mark.parametrize("specs", INSIDE.values(), ids=INSIDE)
def test_steps_are_those_of_padded_batches(tmp_path: Path, specs: Any) -> None:
    """With accumulation: the denominator is the step's learned tokens either way."""
    assert len(set(ENCODED.lengths.tolist())) > 2
    settings = {"batch_size": 4, "accumulate": 2}
    ours, packs = trained(tmp_path / "packed", specs, packing="packed", **settings)
    theirs, pads = trained(tmp_path / "padded", specs, packing="padded", **settings)
    assert packs
    assert not pads
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, msg=name, rtol=1e-3, atol=1e-5)


def test_loss_and_gradient_of_a_batch_are_the_same(tmp_path: Path) -> None:
    found = []
    for way in ("packed", "padded"):
        model, terms = student(), terms_of()
        spec, given = TrainingSpec(**SETTINGS, packing=way), rows(terms)
        trainer = make_trainer(model, terms, TASK, given, spec, tmp_path / way, key="k")
        batch = trainer.micro_batch(Batch(rows=torch.arange(9).numpy(), epoch=0, number=0))
        with packing(spec, model, given, TASK):
            loss, _ = trainer.distil(**batch, counts=dict.fromkeys(terms.names, len(batch["labels"])))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def other_family(kind: str) -> Any:
    return tiny_causal(kind, vocab_size=len(TOKENIZER)).float()


def rows_of(teacher: Any, terms: Terms) -> TrainingRows:
    return TrainingRows(ENCODED, TOKENIZER, live=LiveTeacher(teacher, ENCODED, TOKENIZER, terms.wanted_teacher))


def test_auto_packs_whoever_can_and_packed_refuses_the_others(tmp_path: Path) -> None:
    model, teacher = student(), other_family("bloom")
    given = rows_of(teacher, terms_of(KL))
    with packing(TrainingSpec(**SETTINGS), model, given, TASK) as whole:
        assert not whole
        assert model.config._attn_implementation == "attar_packed"
        assert teacher.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "sdpa"
    spec = TrainingSpec(**SETTINGS, packing="packed")
    with pytest.raises(PlanError, match=r"BloomForCausalLM \(bloom\) cannot read packed batches"):
        train(student(), terms_of(KL), TASK, given, spec, tmp_path, key="k")


def test_attention_is_put_back_when_training_fails() -> None:
    model, given = student(), rows_of(tiny_llama(TOKENIZER), terms_of(KL))
    with pytest.raises(KeyboardInterrupt), packing(TrainingSpec(**SETTINGS), model, given, TASK):
        raise KeyboardInterrupt
    assert model.config._attn_implementation == "sdpa"
