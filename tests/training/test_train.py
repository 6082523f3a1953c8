"""Training: resume to the bit, accumulation, what is kept, and what stops it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import training_parts as parts
import pytest
import torch
from training_parts import ENCODED, FORWARD_KL, HARD, TASK, TOKENIZER, Drawn, run, student
from tiny import tiny_image_model, tiny_image_processor, tiny_images
from torch import nn

from attar.errors import RecipeError, StorageError, TrainingError
from attar.recipe.task import ImageClassificationSpec
from attar.signals import Wanted
from attar.tasks import make_task
from attar.training.rows import Collator, LengthGroups, LiveTeacher, TrainingRows
from attar.training.trainer import MARKER, newest


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_loss_falls_and_the_curve_tells_every_term(tmp_path: Path) -> None:
    _, facts = run(tmp_path / "c", evaluate=lambda _: 0.5, log=tmp_path / "log.jsonl", epochs=6.0, learning_rate=0.01)
    assert facts.steps == 48
    assert facts.curve[-1]["loss"] < facts.curve[0]["loss"]
    first = facts.curve[0]
    assert first["loss"] == pytest.approx(first["term_forward_kl"] + first["term_hard_labels"], rel=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"phase", "step", "loss", "term_forward_kl", "learning_rate"} <= lines[0].keys()
    assert sum("validation" in line for line in lines) >= 10


def test_same_seed_same_weights_whatever_was_drawn_before(tmp_path: Path) -> None:
    first, _ = run(tmp_path / "a", model=student(0.2), seed=3)
    torch.rand(7)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    again, _ = run(tmp_path / "b", model=student(0.2), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    other, _ = run(tmp_path / "c", model=student(0.2), seed=4)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("after", [5, 9])
def test_a_killed_training_resumes_to_the_bit(tmp_path: Path, after: int) -> None:
    options = {"checkpoints": 6, "evaluations": 12, "token_dropout": 0.2}
    whole, _ = run(tmp_path / "whole", model=student(0.2), evaluate=lambda _: 0.0, **options)
    place = tmp_path / "killed"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])}
    command = [sys.executable, str(Path(parts.__file__)), str(place), str(after)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert newest(place, "key") is not None
    assert newest(place, "other") is None
    resumed, facts = run(place, model=student(0.2), evaluate=lambda _: 0.0, **options)
    assert facts.steps == 24
    assert torch.equal(weights(whole), weights(resumed))


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    place = tmp_path / "c"
    whole, _ = run(place, model=student(0.2), checkpoints=4)
    last = newest(place, "key")
    assert last is not None
    assert last.name == "checkpoint-24"
    (last / MARKER).unlink()
    before = newest(place, "key")
    assert before is not None
    assert before.name == "checkpoint-18"
    resumed, _ = run(place, model=student(0.2), checkpoints=4)
    assert torch.equal(weights(whole), weights(resumed))


def test_checkpoints_of_another_training_are_not_resumed(tmp_path: Path) -> None:
    place = tmp_path / "c"
    run(place, key="old", learning_rate=0.1)
    fresh, _ = run(tmp_path / "d")
    here, _ = run(place)
    assert torch.equal(weights(fresh), weights(here))


def test_accumulated_micro_batches_are_one_batch(tmp_path: Path) -> None:
    labels = ENCODED.labels.copy()
    labels[::4] = -100  # unequal counts of labelled rows in the micro-batches
    encoded = type(ENCODED)(ENCODED.inputs, ENCODED.lengths, labels)
    rows = TrainingRows(encoded, TOKENIZER, signals=Drawn())
    one, _ = run(tmp_path / "a", rows=rows, batch_size=60, max_steps=1, schedule="constant", warmup=0.0)
    many, _ = run(tmp_path / "b", rows=rows, batch_size=15, accumulate=4, max_steps=1, schedule="constant", warmup=0.0)
    torch.testing.assert_close(weights(one), weights(many), rtol=1e-4, atol=2e-5)


def test_best_weights_are_kept_where_asked_for(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def peak(model: nn.Module) -> float:
        seen.append(weights(model))
        return -abs(len(seen) - 3.0)

    best, facts = run(tmp_path / "c", evaluate=peak, keep="best", evaluations=8)
    assert torch.equal(weights(best), seen[2])
    assert facts.best_step == 9


def test_stored_and_live_signals_train_alike(tmp_path: Path) -> None:
    teacher = student()
    with torch.inference_mode():
        batch = TASK.batch(ENCODED, range(60), TOKENIZER)
        logits = teacher(**batch).logits

    class Stored(Drawn):
        def __init__(self) -> None:
            self.logits = logits.clone()

    start = parts.tiny_bert(TOKENIZER, parts.LABELS, hidden=16, layers=1, seed=1).state_dict()

    def fresh() -> nn.Module:
        model = student()
        model.load_state_dict(start)
        return model

    stored, _ = run(
        tmp_path / "a", model=fresh(), specs=[FORWARD_KL], rows=TrainingRows(ENCODED, TOKENIZER, signals=Stored())
    )
    live = LiveTeacher(teacher.train(), ENCODED, TOKENIZER, Wanted())
    asked, _ = run(
        tmp_path / "b", model=fresh(), specs=[FORWARD_KL], rows=TrainingRows(ENCODED, TOKENIZER, live=live)
    )
    torch.testing.assert_close(weights(stored), weights(asked), rtol=1e-3, atol=1e-5)
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_rows_without_label_move_nothing(tmp_path: Path) -> None:
    labels = np.full_like(ENCODED.labels, -100)
    encoded = type(ENCODED)(ENCODED.inputs, ENCODED.lengths, labels)
    start = weights(student())
    model, facts = run(tmp_path / "c", specs=[HARD], rows=TrainingRows(encoded, TOKENIZER), weight_decay=0.0)
    assert torch.equal(weights(model), start)
    assert facts.curve[-1]["loss"] == 0.0


def test_order_and_dropout_depend_on_seed_and_epoch_alone() -> None:
    groups = LengthGroups(ENCODED.lengths, 8, seed=1)
    first = list(groups)
    assert first == list(groups)
    assert sorted(sum(first, [])) == list(range(60))
    assert [len(b) for b in first].count(8) == 7
    groups.set_epoch(1)
    assert first != list(groups)
    collate = Collator(TrainingRows(ENCODED, TOKENIZER), TASK, groups, token_dropout=0.5, mixup=0.0)
    one, two = collate(first[0]), collate(first[0])
    assert torch.equal(one["student"]["input_ids"], two["student"]["input_ids"])
    full = TASK.batch(ENCODED, first[0], TOKENIZER)
    assert one["student"]["attention_mask"].sum() < full["attention_mask"].sum()
    assert (one["student"]["input_ids"][:, 0] == TOKENIZER.cls_token_id).all()
    assert ((one["student"]["input_ids"] == TOKENIZER.sep_token_id).sum(1) == 1).all()
    spread = [np.ptp(ENCODED.lengths[batch]) for batch in first]
    assert np.mean(spread) < np.ptp(ENCODED.lengths) / 2


def test_mixup_shows_the_teacher_what_the_student_sees() -> None:
    task = make_task(ImageClassificationSpec(kind="image_classification", image_size=8), parts.LABELS)
    from datasets import Dataset

    labels = [i % 3 for i in range(12)]
    rows = Dataset.from_dict({"image": tiny_images(labels), "label": labels})
    processor = tiny_image_processor()
    encoded = task.encode(rows, processor)
    live = LiveTeacher(tiny_image_model(parts.LABELS), encoded, processor, Wanted())
    groups = LengthGroups(encoded.lengths, 6, seed=0)
    batch = Collator(TrainingRows(encoded, processor, live=live), task, groups, token_dropout=0.0, mixup=0.4)(range(6))
    assert torch.equal(batch["student"]["pixel_values"], batch["teacher"]["pixel_values"])
    plain = task.batch(encoded, range(6), processor)["pixel_values"]
    assert not torch.equal(batch["student"]["pixel_values"], plain)
    order = [int((batch["partner_labels"] == batch["labels"][i]).nonzero()[0]) for i in range(1)]
    assert 0 < batch["share"] < 1
    assert len(order) == 1


def test_nan_stops_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Poisoned(Drawn):
        reads = 0

        def read(self, rows: np.ndarray) -> parts.Signals:
            Poisoned.reads += 1
            signals = super().read(rows)
            if Poisoned.reads > 10:
                signals.logits = signals.logits * float("nan")
            return signals

    with pytest.raises(TrainingError, match=r"stopped in step 11.*checkpoint-8.*Lower training.learning_rate") as caught:
        run(tmp_path / "c", rows=TrainingRows(ENCODED, TOKENIZER, signals=Poisoned()), checkpoints=6)
    assert "Learning rate" in str(caught.value)
    assert newest(tmp_path / "c", "key") is not None


def test_weights_that_are_no_numbers_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="finite|nan|inf"):
        run(tmp_path / "c", learning_rate=1e30, clip=0.0, warmup=0.0, checkpoints=24)
    for place in (tmp_path / "c").glob("checkpoint-*/model.safetensors"):
        from safetensors.torch import load_file

        assert all(torch.isfinite(value).all() for value in load_file(place).values())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="not a folder"):
        run(tmp_path / "file" / "c")


def test_unknown_extra_is_a_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"training.extra: .*no_such_field"):
        run(tmp_path / "c", extra={"no_such_field": 1})


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "c", epochs=1.0)
    shutil.rmtree(tmp_path / "c")
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
