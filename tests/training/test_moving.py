"""Trainings whose objectives move: targets, weights, temperatures, random draws, and weights balanced by a probe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn

from attar.errors import TrainingError
from attar.objectives.schedules import AdaptiveState, adapt
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import (
    DISTSpec,
    DKDSpec,
    ForwardKLSpec,
    HardLabelsSpec,
    HiddenSpec,
    OFASpec,
    SampledKLSpec,
    SparseKLSpec,
    SparseReverseKLSpec,
    TAIDSpec,
    TemperatureSchedule,
    WeightSchedule,
)
from attar.recipe.task import ImageClassificationSpec
from attar.tasks import make_task
from attar.training.gradients import gradient_norms
from attar.training.rows import Batches, TrainingRows
from attar.training.train import make_trainer
from tiny import tiny_image_processor, tiny_images
from training.parts import (
    ROWS,
    Interrupted,
    Reader,
    fit,
    make_terms,
    reader,
    same_bits,
    spec,
    student,
    text_task,
    training_rows,
)

ROW_TERMS = (
    TAIDSpec(kind="taid", alpha=0.8, beta=0.9, temperature=2.0),
    SampledKLSpec(kind="sampled_kl", samples=4, weight=WeightSchedule(start=0.0, end=1.0, until=0.5)),
    DKDSpec(kind="dkd", weight=0.1, temperature=TemperatureSchedule(start=4.0, end=1.0, shape="cosine")),
    OFASpec(kind="ofa"),
    SparseKLSpec(kind="sparse_kl", k=1),
    SparseReverseKLSpec(kind="sparse_reverse_kl", k=1),
)
MOVING = (*ROW_TERMS, DISTSpec(kind="dist", weight=0.1), HiddenSpec(kind="hidden"))


@pytest.mark.parametrize("one", MOVING, ids=lambda one: one.kind)
def test_each_kind_trains(tmp_path: Path, one: Any) -> None:
    facts, _ = fit(tmp_path, spec(max_steps=4), student(), terms=make_terms(one))
    assert facts.curve[-1][f"term_{one.kind}"] > -1
    assert facts.curve[-1]["loss"] == pytest.approx(
        facts.curve[-1].get(f"weight_{one.kind}", one.weight) * facts.curve[-1][f"term_{one.kind}"], rel=1e-5
    )


def test_the_log_tells_what_moves_as_it_was_in_each_step(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    facts, _ = fit(tmp_path / "out", spec(), student(), terms=make_terms(*MOVING), log=log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    rising = [line["scheduled"]["weight_sampled_kl"] for line in lines]
    assert rising == pytest.approx([0, 0.2, 0.4, 0.6, 0.8] + [1] * 5)
    assert lines[0]["scheduled"]["temperature_dkd"] == 4.0
    assert 1.0 < lines[-1]["scheduled"]["temperature_dkd"] < 1.2
    weights = {one.kind: one.weight for one in MOVING}
    state = AdaptiveState(0.4)
    for step, (line, point) in enumerate(zip(lines, facts.curve, strict=True)):
        assert set(line["scheduled"]) == {"weight_sampled_kl", "temperature_dkd", "progress_taid"}
        assert line["scheduled"].items() <= point.items()
        weights["sampled_kl"] = line["scheduled"]["weight_sampled_kl"]
        total = sum(weight * point[f"term_{name}"] for name, weight in weights.items())
        assert point["loss"] == pytest.approx(total, rel=1e-5)
        assert point["progress_taid"] == pytest.approx(max(state.value, 0.4 + 0.6 * step / 10), rel=1e-12)
        state = adapt(state, point["term_taid"], step / 10, alpha=0.8, beta=0.9)
    assert facts.curve[2]["progress_taid"] > 0.55, "ahead of the line"


def test_nothing_is_logged_of_what_stands_still(tmp_path: Path) -> None:
    facts, _ = fit(tmp_path / "out", spec(max_steps=2), student(), log=tmp_path / "log.jsonl")
    assert all("scheduled" not in json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert not any(name.startswith(("weight", "temperature", "progress")) for name in facts.curve[0])


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 2), (3, 5)])
def test_accumulated_micro_batches_are_one_big_batch(tmp_path: Path, batch_size: int, accumulate: int) -> None:
    """Of row terms, with draws and the adaptive target: each row has its own draw, the target sees the whole step."""
    specs = (*ROW_TERMS, HiddenSpec(kind="hidden"))
    whole, weights = fit(
        tmp_path / "a", spec(batch_size=batch_size * accumulate), student().double(), terms=make_terms(*specs)
    )
    parts, others = fit(
        tmp_path / "b", spec(batch_size=batch_size, accumulate=accumulate), student().double(), terms=make_terms(*specs)
    )
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-8, atol=1e-9, msg=name)
    assert parts.curve[-1]["progress_taid"] == pytest.approx(whole.curve[-1]["progress_taid"], rel=1e-9)


PROBES = 4 * len(MOVING)
"""Forward passes of the probe: of each term, four steps."""


@pytest.mark.parametrize(("balance", "accumulate"), [("off", 1), ("gradient_norm", 1), ("off", 2)])
def test_a_resume_in_mid_epoch_is_exact(tmp_path: Path, balance: str, accumulate: int) -> None:
    """Checkpoints at steps 2, 4, 6, ... of 10, five an epoch; interrupted in step 8."""
    training = spec(
        balance=balance, checkpoints=5, token_dropout=0.2, batch_size=8 // accumulate, accumulate=accumulate
    )
    whole, weights = fit(tmp_path / "a", training, Interrupted(None), terms=make_terms(*MOVING))
    stop = 7 * accumulate + 1 + PROBES * (balance != "off")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "b", training, Interrupted(stop), terms=make_terms(*MOVING))
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"checkpoint-4", "checkpoint-6"}
    model = Interrupted(None)
    resumed, again = fit(tmp_path / "b", training, model, terms=make_terms(*MOVING))
    assert model.calls == 4 * accumulate, "neither the probe nor earlier steps were repeated"
    assert same_bits(again, weights)
    assert resumed.curve == whole.curve
    assert resumed.balance == whole.balance
    loaded, final = fit(tmp_path / "b", training, Interrupted(None), terms=make_terms(*MOVING))
    assert same_bits(final, weights)
    assert loaded.balance == whole.balance


# The probe.


def test_balanced_weights_change_nothing_but_the_weights(tmp_path: Path) -> None:
    """With the factors multiplied in by hand the training without a probe gives the same bits, dropout included."""
    specs = (
        ForwardKLSpec(kind="forward_kl"),
        HiddenSpec(kind="hidden", weight=0.5),
        HardLabelsSpec(kind="hard_labels"),
    )
    facts, weights = fit(tmp_path / "a", spec(balance="gradient_norm"), student(dropout=0.1), terms=make_terms(*specs))
    assert set(facts.balance) == {"forward_kl", "hidden", "hard_labels"}
    scaled = [one.model_copy(update={"weight": one.weight * facts.balance[one.kind].factor}) for one in specs]
    _, by_hand = fit(tmp_path / "b", spec(), student(dropout=0.1), terms=make_terms(*scaled))
    assert same_bits({n: w for n, w in weights.items() if "balance" not in n}, by_hand)
    products = {one.kind: facts.balance[one.kind].norm * facts.balance[one.kind].factor for one in specs}
    assert products["forward_kl"] == pytest.approx(products["hidden"])
    assert products["forward_kl"] == pytest.approx(products["hard_labels"])


def test_norms_are_those_of_the_first_steps_gradients(tmp_path: Path) -> None:
    specs = (ForwardKLSpec(kind="forward_kl", weight=3.0), HardLabelsSpec(kind="hard_labels"))
    model, terms, rows = student().double(), make_terms(*specs), training_rows(signals=in_float64())
    for accumulate in (1, 4):
        training = spec(batch_size=8 // accumulate, accumulate=accumulate)
        trainer = make_trainer(model, terms, text_task()[0], rows, training, tmp_path, key="k")
        found = gradient_norms(trainer, terms.names)
        for name in terms.names:
            assert found[name] == pytest.approx(by_hand(model, terms, rows, name), rel=1e-9)


def in_float64() -> Reader:
    return Reader(reader().logits.double(), reader().hidden.double())


def by_hand(model: nn.Module, terms: Terms, rows: TrainingRows, name: str) -> float:
    task, tokenizer, encoded = text_task()
    norms = []
    for batch in list(Batches(encoded.lengths, batch_size=8, accumulate=1, seed=0))[:4]:
        logits = model(**task.batch(encoded, batch.rows, tokenizer)).logits
        labels = torch.from_numpy(encoded.labels[batch.rows])
        if name == "hard_labels":
            loss = nn.functional.cross_entropy(logits, labels)
        else:
            target = in_float64().logits[batch.rows].log_softmax(-1)
            loss = nn.functional.kl_div(logits.log_softmax(-1), target, reduction="batchmean", log_target=True)
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        norms.append(torch.cat([g.flatten() for g in gradients if g is not None]).norm())
    return float(torch.stack(norms).mean())


def test_the_probe_leaves_model_and_random_state_as_they_are(tmp_path: Path) -> None:
    """A network with batch normalisation and a queue; its statistics move in the probe, and are put back."""
    labels = [0, 1] * 8
    task = make_task(ImageClassificationSpec(kind="image_classification", image_size=8), ("dark", "light"))
    processor = tiny_image_processor()
    encoded = task.encode(Dataset.from_dict({"image": tiny_images(labels), "label": labels}), processor)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 2))
    rows = TrainingRows(encoded, processor)

    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.inner(pixel_values)

    terms = make_terms(HardLabelsSpec(kind="hard_labels"))
    trainer = make_trainer(Student(), terms, task, rows, spec(batch_size=4), tmp_path, key="k")
    trainer.distil.eval()
    before = {name: value.clone() for name, value in trainer.distil.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (gradient_norms(trainer, terms.names) for _ in range(2))
    assert first == second
    assert first["hard_labels"] > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert same_bits(before, trainer.distil.state_dict())
    assert all(p.grad is None for p in trainer.distil.parameters())
    assert not trainer.distil.training


def test_one_objective_is_not_balanced_and_one_without_gradient_is_an_error(tmp_path: Path) -> None:
    lone = (ForwardKLSpec(kind="forward_kl"), HiddenSpec(kind="hidden", weight=0.0))
    facts, _ = fit(tmp_path / "a", spec(balance="gradient_norm", max_steps=1), student(), terms=make_terms(*lone))
    assert facts.balance == {}
    unlabelled = training_rows(student=replace(text_task()[2], labels=np.full(ROWS, -100)))
    still = make_terms(ForwardKLSpec(kind="forward_kl"), HardLabelsSpec(kind="hard_labels"))
    with pytest.raises(TrainingError, match=r"training\.balance: .* of hard_labels \(0\) has no size"):
        fit(tmp_path / "b", spec(balance="gradient_norm"), student(), unlabelled, terms=still)
