from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import get_scheduler

from attar.errors import MissingExtra, PlanError, RecipeError, StorageError, TrainingError
from attar.recipe.objectives import ForwardKLSpec, HardLabelsSpec, HiddenSpec
from attar.signals import HiddenKey, Wanted, ask
from attar.training.arguments import training_arguments
from attar.training.collate import Collator
from attar.training.distil import Distil
from attar.training.rows import Batches, LiveTeacher
from attar.training.train import make_trainer
from plan.samples import problems_of
from tiny import tiny_bert
from training.parts import LABELS, Reader, fit, make_terms, reader, same_bits, spec, student, text_task, training_rows

KEY = HiddenKey(2, "mean")
WANTED = Wanted(logits=True, hidden=(KEY,))
SPECS = (ForwardKLSpec(kind="forward_kl"), HiddenSpec(kind="hidden"))


def bare_loop(model: nn.Module, epochs: int, *, batch_size: int, dropout: float) -> dict[str, torch.Tensor]:
    """What `train` does, without the Trainer: AdamW, warm-up and cosine, clipping."""
    rows, terms = training_rows(), make_terms()
    task, _, encoded = text_task()
    distil = Distil(model, terms).train()
    collator = Collator(rows, task, seed=0, token_dropout=dropout, subword_dropout=0.0, mixup=0.0, in_place=False)
    batches = Batches(encoded.lengths, batch_size=batch_size, accumulate=1, seed=0)
    named = dict(distil.named_parameters())
    plain = {n for n in named if n.endswith("bias") or "LayerNorm" in n}
    groups = [
        {"params": [p for n, p in named.items() if n not in plain], "weight_decay": 0.01},
        {"params": [p for n, p in named.items() if n in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    steps = epochs * len(batches)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=-(-steps * 5 // 100), num_training_steps=steps)
    torch.manual_seed(0)
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        for at in batches:
            batch = collator(at)
            counts = terms.kept(batch["labels"], len(at.rows), batch["inputs"]["attention_mask"])
            distil(**batch, counts=counts)[0].backward()
            nn.utils.clip_grad_norm_(distil.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return {**model.state_dict(), **{f"terms.{n}": p for n, p in terms.state_dict().items()}}


def test_it_is_the_bare_loop_bit_for_bit(tmp_path: Path) -> None:
    facts, weights = fit(tmp_path, spec(token_dropout=0.2), student(dropout=0.1))
    assert same_bits(weights, bare_loop(student(dropout=0.1), 2, batch_size=8, dropout=0.2))
    assert facts.steps == 10
    assert facts.epochs == 2.0


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 2), (4, 4), (2, 8), (3, 5)])
def test_accumulated_micro_batches_are_one_big_batch(tmp_path: Path, batch_size: int, accumulate: int) -> None:
    a_step = 16 if batch_size != 3 else 15
    _, whole = fit(tmp_path / "a", spec(batch_size=a_step), student().double())
    _, parts = fit(tmp_path / "b", spec(batch_size=batch_size, accumulate=accumulate), student().double())
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-9, atol=1e-10, msg=name)


def test_the_logged_loss_is_the_mean_over_kept_rows(tmp_path: Path) -> None:
    terms = make_terms(HardLabelsSpec(kind="hard_labels"))
    facts, _ = fit(tmp_path, spec(batch_size=5, accumulate=8, max_steps=1), student().double(), terms=terms)
    task, tokenizer, encoded = text_task()
    logits = student().double()(**task.batch(encoded, range(40), tokenizer)).logits
    expected = nn.functional.cross_entropy(logits.detach(), torch.from_numpy(encoded.labels))
    assert facts.curve[0]["loss"] == pytest.approx(float(expected), rel=1e-6)
    assert facts.curve[0]["term_hard_labels"] == pytest.approx(float(expected), rel=1e-9)


def test_the_same_seed_gives_the_same_bits_and_global_state_is_left_alone(tmp_path: Path) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    _, first = fit(tmp_path / "a", spec(), student(dropout=0.1))
    assert states[:2] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(states[2], torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.rand(3)
    _, second = fit(tmp_path / "b", spec(), student(dropout=0.1))
    assert same_bits(first, second)
    _, other = fit(tmp_path / "c", spec(seed=1), student(dropout=0.1))
    assert not same_bits(first, other)


def test_only_matrices_outside_norms_decay(tmp_path: Path) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.scale, self.head = nn.Parameter(torch.ones(4)), nn.Linear(4, 2)

    trainer = make_trainer(student(), make_terms(), text_task()[0], training_rows(), spec(), tmp_path, key="k")
    assert trainer.get_decay_parameter_names(Small()) == ["conv.weight", "head.weight"]
    names = trainer.get_decay_parameter_names(trainer.distil)
    assert "student.bert.embeddings.word_embeddings.weight" in names
    assert "terms.parts.hidden.projectors.2_2.weight" in names
    assert not any("LayerNorm" in name or name.endswith("bias") for name in names)


def test_log_and_curve(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log, seen, qualities = tmp_path / "log.jsonl", [], iter([0.1, float("nan"), 0.7, 0.5])
    log.write_text('{"phase": "control", "step": 1}\n{"phase": "student", "step": 9}\n{"phase": "stu')
    facts, _ = fit(
        tmp_path / "out", spec(), student(), log=log, evaluate=lambda model: next(qualities),
        progress=lambda *told: seen.append(told),
    )  # fmt: skip
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[0] == {"phase": "control", "step": 1}
    assert [line["step"] for line in lines[1:]] == list(range(1, 11))
    assert set(lines[3]) == {
        "phase", "step", "epoch", "loss", "terms", "learning_rate", "grad_norm", "rows_per_second", "validation",
    }  # fmt: skip
    assert set(lines[3]["terms"]) == {"forward_kl", "hidden", "hard_labels"}
    assert [line.get("validation") for line in lines if "validation" in line] == [0.1, None, 0.7, 0.5]
    assert [point["step"] for point in facts.curve] == list(range(1, 11))
    assert [p["validation"] for p in facts.curve if "validation" in p] == [0.1, 0.7, 0.5]
    assert facts.curve[4].keys() >= {"loss", "epoch", "term_forward_kl", "term_hidden", "term_hard_labels"}
    for point in facts.curve:
        total = point["term_forward_kl"] + point["term_hidden"] + 0.5 * point["term_hard_labels"]
        assert point["loss"] == pytest.approx(total, rel=1e-5)
    assert facts.best_step == 8
    assert seen[-1] == ("training the student", 10, 10)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_weights_that_are_kept(tmp_path: Path, keep: str) -> None:
    qualities, weights = iter([0.2, 0.9, 0.9, 0.4]), []

    def evaluate(model: nn.Module) -> float:
        assert not model.training
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(qualities)

    model = student()
    facts, _ = fit(tmp_path, spec(keep=keep), model, evaluate=evaluate)
    assert len(weights) == 4
    assert facts.best_step == 5
    assert same_bits(model.state_dict(), weights[1] if keep == "best" else weights[-1])
    assert not model.training


def test_max_steps_overrides_epochs(tmp_path: Path) -> None:
    facts, _ = fit(tmp_path, spec(epochs=50.0, max_steps=3), student())
    assert facts.steps == 3
    assert facts.epochs == pytest.approx(0.6)


def test_schedule_and_clipping(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    fit(tmp_path / "o", spec(warmup=0.5, schedule="constant", clip=0.0), student(), log=log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["learning_rate"] for line in lines] == pytest.approx([i * 2e-4 for i in (0, 1, 2, 3, 4)] + [1e-3] * 5)
    assert "grad_norm" not in lines[0]


def test_bf16_on_the_cpu(tmp_path: Path) -> None:
    model = student()
    facts, _ = fit(tmp_path, spec(precision="bf16"), model)
    assert facts.curve[-1]["loss"] < facts.curve[0]["loss"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


class Poisoned(nn.Module):
    """A student whose logits become NaN in its 7th forward pass in training, or whose gradient does."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.inner, self.where, self.calls = student(), where, 0

    def forward(self, **inputs: Any) -> Any:
        answer = self.inner(**inputs)
        self.calls += 1
        if self.calls == 7 and self.where == "logits":
            answer.logits = answer.logits * float("nan")
        if self.calls == 7 and self.where == "gradient":
            answer.logits.register_hook(lambda gradient: gradient * float("nan"))
        return answer


@pytest.mark.parametrize(("where", "said"), [("logits", "the student is nan"), ("gradient", "gradient's norm is nan")])
def test_training_stops_where_a_number_is_not_finite(tmp_path: Path, where: str, said: str) -> None:
    model = Poisoned(where)
    with pytest.raises(TrainingError, match=said) as stop:
        fit(tmp_path / "o", spec(checkpoints=5), model)
    text = str(stop.value)
    assert "student: training stopped in step 7 of 10 (learning rate " in text
    assert "last terms: forward_kl 0." in text
    assert f"The last good checkpoint is kept: {tmp_path / 'o' / 'checkpoint-6'}." in text
    assert "Lower training.learning_rate" in text
    assert all(p.isfinite().all() for p in model.parameters()), "the step was not taken"


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    def spoil(model: nn.Module) -> float:
        with torch.no_grad():
            next(model.parameters()).fill_(float("inf"))
        return 0.0

    with pytest.raises(TrainingError, match=r"a weight is not finite.*No checkpoint was written before"):
        fit(tmp_path, spec(evaluations=2, checkpoints=2), student(), evaluate=spoil)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_all_wrong_extras_at_once(tmp_path: Path) -> None:
    extra = {"learning_rat": 1.0, "num_train_epochs": 3, "fsdp": "full_shard", "adam_beta2": 0.98}
    with pytest.raises(RecipeError) as refused:
        fit(tmp_path, spec(extra=extra), student())
    assert len(refused.value.problems) == 3
    text = str(refused.value)
    assert 'training.extra.learning_rat: TrainingArguments has no such field. Did you mean "learning_rate"?' in text
    assert "training.extra.num_train_epochs: attar sets num_train_epochs itself. Use training.epochs instead." in text
    with pytest.raises(RecipeError, match=r"training: TrainingArguments refuses it.*nonsense"):
        fit(tmp_path, spec(extra={"optim": "nonsense"}), student())


def test_the_check_refuses_the_extras_that_the_training_refuses(tmp_path: Path) -> None:
    taken = ["output_dir", "logging_strategy", "disable_tqdm", "fsdp", "group_by_length", "save_only_model"]
    extra = dict.fromkeys([*taken, "learning_rat"], 1)
    with pytest.raises(RecipeError) as refused:
        training_arguments(spec(extra=extra), 1, tmp_path)
    assert len(refused.value.problems) == len(extra)
    assert problems_of(tmp_path, training={"extra": extra}) == refused.value.problems


def test_extra_goes_through(tmp_path: Path) -> None:
    rows = spec(extra={"adam_beta2": 0.9, "logging_steps": 5, "optim": "sgd"})
    trainer = make_trainer(student(), make_terms(), text_task()[0], training_rows(), rows, tmp_path, key="k")
    assert trainer.args.adam_beta2 == 0.9
    facts, _ = fit(tmp_path, rows, student())
    assert [point["step"] for point in facts.curve] == [1, 2, 3, 4, 5, 6, 8, 10]


def test_workers_change_nothing(tmp_path: Path) -> None:
    _, alone = fit(tmp_path / "a", spec(token_dropout=0.2), student(dropout=0.1))
    _, helped = fit(tmp_path / "b", spec(token_dropout=0.2, extra={"dataloader_num_workers": 1}), student(dropout=0.1))
    assert same_bits(alone, helped)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "cuda:7"}, 'training.device: "cuda:7" is not on this machine'),
        ({"precision": "fp16"}, '"fp16" needs a GPU'),
        ({"mixup": 0.2}, "training.mixup"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        fit(tmp_path, spec(**changes), student())


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    facts, _ = fit(tmp_path / "o", spec(tensorboard=True), student())
    events = EventAccumulator(str(tmp_path / "tensorboard" / "student")).Reload()
    assert {"loss", "forward_kl", "learning_rate"} <= set(events.Tags()["scalars"])
    assert events.Scalars("loss")[-1].step == facts.steps
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r'pip install "attar\[tensorboard\]"'):
        fit(tmp_path / "o", spec(tensorboard=True), student())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="not a folder"):
        fit(tmp_path / "file" / "out", spec(), student())


def test_the_control_goes_through_the_same_batches(tmp_path: Path) -> None:
    seen: dict[str, list[list[int]]] = {"student": [], "control": []}
    for phase, signals in (("student", reader()), ("control", None)):
        terms = make_terms() if signals else make_terms(HardLabelsSpec(kind="hard_labels"))
        model = student()
        model.register_forward_pre_hook(
            lambda _, __, inputs, phase=phase: seen[phase].append(inputs["input_ids"].flatten().tolist()),
            with_kwargs=True,
        )
        fit(tmp_path / phase, spec(token_dropout=0.2), model, training_rows(signals=signals), terms=terms, phase=phase)
    assert seen["student"] == seen["control"]


def test_stored_and_live_signals_train_alike(tmp_path: Path) -> None:
    task, tokenizer, encoded = text_task()
    teacher = tiny_bert(tokenizer, LABELS, seed=5)
    with torch.inference_mode():
        answer = ask(teacher, task.batch(encoded, range(40), tokenizer), WANTED)
    assert answer.logits is not None
    stored = training_rows(signals=Reader(answer.logits, answer.hidden[KEY]))
    live = LiveTeacher(teacher.train(), encoded, tokenizer, WANTED)
    results = [
        fit(tmp_path / name, spec(), student(), rows, terms=make_terms(*SPECS, teacher_width=32))[1]
        for name, rows in (("stored", stored), ("live", training_rows(signals=None, live=live)))
    ]
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_rows_without_label_move_nothing(tmp_path: Path) -> None:
    encoded = text_task()[2]
    rows = training_rows(signals=None, student=replace(encoded, labels=np.full_like(encoded.labels, -100)))
    model = student()
    terms = make_terms(HardLabelsSpec(kind="hard_labels"))
    facts, _ = fit(tmp_path, spec(weight_decay=0.0), model, rows, terms=terms)
    assert same_bits(model.state_dict(), student().state_dict())
    assert facts.curve[-1]["loss"] == 0.0
