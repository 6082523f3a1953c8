"""Training of language models: logits that are never dense, counts of tokens, what is compared inside."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn import functional
from transformers import LlamaForCausalLM

from attar.errors import PlanError
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import AttentionRelationsSpec, ForwardKLSpec, HardLabelsSpec, HiddenSpec
from attar.recipe.task import CausalLMSpec
from attar.recipe.training import TrainingSpec
from attar.signals import look_inside
from attar.tasks.causal_lm import CausalLM
from attar.training.rows import Batch, LiveTeacher, TrainingRows
from attar.training.train import make_trainer, train
from tiny_language import TEXTS, tiny_bpe, tiny_llama

TOKENIZER = tiny_bpe()
TASK = CausalLM(CausalLMSpec(kind="causal_lm", prompt="prompt", max_length=40))
ROWS = Dataset.from_dict({"prompt": [text[:9] for text in TEXTS[:24]], "text": [text[9:] for text in TEXTS[:24]]})
ENCODED = TASK.encode(ROWS, TOKENIZER)
SPECS = (ForwardKLSpec(kind="forward_kl", temperature=2.0), HardLabelsSpec(kind="hard_labels", weight=0.5))
SETTINGS: dict[str, Any] = {"batch_size": 8, "learning_rate": 0.01, "max_steps": 6, "device": "cpu", "evaluations": 1}


def student() -> LlamaForCausalLM:
    return tiny_llama(TOKENIZER, hidden=16, layers=2, seed=1)


def terms_of(*specs: Any) -> Terms:
    batch = TASK.batch(ENCODED, [0], TOKENIZER)
    inside = [look_inside(model, batch) for model in (student(), tiny_llama(TOKENIZER))]
    return Terms(list(specs or SPECS), problem="single_label", student=inside[0], teacher=inside[1], seed=0)


def rows(terms: Terms) -> TrainingRows:
    teacher = tiny_llama(TOKENIZER)
    return TrainingRows(ENCODED, TOKENIZER, live=LiveTeacher(teacher, ENCODED, TOKENIZER, terms.wanted_teacher))


def trained(where: Path, *specs: Any, **changes: Any) -> dict[str, torch.Tensor]:
    model, terms = student(), terms_of(*specs)
    facts = train(model, terms, TASK, rows(terms), TrainingSpec(**SETTINGS | changes), where, key="k")
    assert facts.counted == "tokens"
    return model.state_dict()


def test_loss_and_gradient_are_those_of_dense_logits(tmp_path: Path) -> None:
    model, terms = student(), terms_of()
    trainer = make_trainer(model, terms, TASK, rows(terms), TrainingSpec(**SETTINGS), tmp_path, key="k")
    batch = trainer.micro_batch(Batch(rows=torch.arange(5).numpy(), epoch=0, number=0))
    tokens = len(batch["labels"])
    assert tokens == int(ENCODED.labels[:5].sum())
    loss, values = trainer.distil(**batch, counts=dict.fromkeys(terms.names, tokens))
    loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    inputs, labels = batch["inputs"], batch["labels"]
    dense = model(**inputs).logits.flatten(0, 1)[batch["positions"]]
    with torch.no_grad():
        told = tiny_llama(TOKENIZER)(**inputs).logits.flatten(0, 1)[batch["view_positions"]]
    p, q = (logits.div(2.0).log_softmax(-1) for logits in (told, dense))
    kl = functional.kl_div(q, p, log_target=True, reduction="batchmean") * 4.0
    hard = functional.cross_entropy(dense, labels)
    (kl + 0.5 * hard).backward()
    torch.testing.assert_close(loss, (kl + 0.5 * hard).detach(), check_stride=False)
    torch.testing.assert_close(values["hard_labels"], hard.detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, msg=name, rtol=1e-4, atol=1e-6)


def test_the_head_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.nn.Linear.forward

    def watched(self: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
        assert self.out_features != len(TOKENIZER), "the head made logits of all tokens"
        return plain(self, states)

    model, terms = student(), terms_of()
    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    monkeypatch.setattr("attar.heads._is_plain", lambda head: isinstance(head, torch.nn.Linear))
    train(model, terms, TASK, rows(terms), TrainingSpec(**SETTINGS | {"max_steps": 1}), tmp_path, key="k")


def test_micro_batches_make_the_same_step_as_one_batch(tmp_path: Path) -> None:
    """Rows have other numbers of learned tokens, so a mean of means would differ."""
    assert len(set(ENCODED.labels.tolist())) > 2
    whole = trained(tmp_path / "whole")
    cut = trained(tmp_path / "cut", batch_size=2, accumulate=4)
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, msg=name, rtol=1e-3, atol=1e-5)


def test_a_resumed_training_ends_in_the_same_bits(tmp_path: Path) -> None:
    """Checkpoints after steps 2, 4 and 6; interrupted in step 5."""
    whole = trained(tmp_path / "whole", checkpoints=3)
    model, terms, calls = student(), terms_of(), count(1)

    def interrupt(layer: torch.nn.Module, *_: object) -> None:
        if layer.training and next(calls) == 5:
            raise KeyboardInterrupt

    model.model.layers[0].register_forward_pre_hook(interrupt)
    spec = TrainingSpec(**SETTINGS, checkpoints=3)
    with pytest.raises(KeyboardInterrupt):
        train(model, terms, TASK, rows(terms), spec, tmp_path / "cut", key="k")
    again, terms = student(), terms_of()
    train(again, terms, TASK, rows(terms), spec, tmp_path / "cut", key="k")
    for name, value in whole.items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize(
    "spec",
    [
        HiddenSpec(kind="hidden", pool="none"),
        HiddenSpec(kind="hidden", pool="mean"),
        AttentionRelationsSpec(kind="attention_relations", heads=2),
    ],
    ids=["states of tokens", "pooled states", "attention"],
)
def test_what_is_compared_inside_is_compared_in_language_models(tmp_path: Path, spec: Any) -> None:
    before = student().state_dict()
    after = trained(tmp_path, spec, SPECS[0])
    moved = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert any("layers.1" in name or "layers.0" in name for name in moved)


def one_step(where: Path, *specs: Any, **changes: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[str]]:
    """Loss and gradients of a micro-batch in training mode, dropout included, and which layers ran, in order."""
    model, terms, ran = student(), terms_of(*specs), list[str]()
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.attention_dropout = 0.2
        layer.mlp.register_forward_pre_hook(lambda *_, name=f"{number}": ran.append(name))
    trainer = make_trainer(model, terms, TASK, rows(terms), TrainingSpec(**SETTINGS | changes), where, key="k")
    batch = trainer.micro_batch(Batch(rows=torch.arange(5).numpy(), epoch=0, number=0))
    trainer.distil.train()
    torch.manual_seed(3)
    counts = terms.kept(batch["labels"], len(batch["labels"]), batch["inputs"]["attention_mask"])
    loss, _ = trainer.distil(**batch, counts=counts)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in trainer.distil.named_parameters() if p.grad is not None}, ran


def test_layers_that_run_again_give_the_same_gradients(tmp_path: Path) -> None:
    specs = (
        *SPECS,
        HiddenSpec(kind="hidden", pool="none"),
        AttentionRelationsSpec(kind="attention_relations", heads=2),
    )
    plain = one_step(tmp_path / "plain", *specs)
    again = one_step(tmp_path / "again", *specs, activation_checkpointing=True)
    assert (plain[2], again[2]) == (["0", "1"], ["0", "1", "1", "0"])
    assert torch.equal(again[0], plain[0])
    assert again[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(again[1][name], gradient, msg=name)


def test_a_model_that_cannot_run_its_layers_again_is_refused(tmp_path: Path) -> None:
    model, terms = torch.nn.Sequential(torch.nn.Linear(2, 2)), terms_of()
    spec = TrainingSpec(**SETTINGS, activation_checkpointing=True)
    with pytest.raises(PlanError, match="Sequential cannot run its layers twice"):
        make_trainer(model, terms, TASK, rows(terms), spec, tmp_path, key="k")


def test_bfloat16_learns_what_float32_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The states that reach the head are rounded to 8 bits; logits, loss and weights are not."""
    found = {}
    monkeypatch.setattr("attar.precision.has_bf16", lambda: True)
    for precision in ("fp32", "bf16"):
        model, terms = student(), terms_of()
        spec = TrainingSpec(**SETTINGS, precision=precision, activation_checkpointing=precision == "bf16")
        facts = train(model, terms, TASK, rows(terms), spec, tmp_path / precision, key="k")
        found[precision] = [point["term_forward_kl"] for point in facts.curve]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not model.is_activation_checkpointing
    assert found["bf16"] != found["fp32"]
    assert found["bf16"][-1] < found["bf16"][0]
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.05)
    monkeypatch.setattr("attar.precision.has_bf16", lambda: False)
    spec, terms = TrainingSpec(**SETTINGS, precision="bf16"), terms_of()
    facts = train(student(), terms, TASK, rows(terms), spec, tmp_path / "imitated", key="k")
    assert [point["term_forward_kl"] for point in facts.curve] == found["fp32"], "no bf16 here: float32"
