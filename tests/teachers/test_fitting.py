from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

import tiny
from attar.errors import TeacherError, TrainingError
from attar.recipe.task import TextClassificationSpec
from attar.recipe.teacher import FittingSpec, LocalTeacherSpec
from attar.signals import HiddenKey, Wanted, ask
from attar.tasks import make_task
from attar.teachers import finetune
from attar.teachers.finetune import schedule_factor
from attar.teachers.fitted import read_pooling
from attar.teachers.fitting import fit_teacher, load_fitted
from teachers.tiny_texts import LABELS, rows, splits

DATA = splits(rows(150), rows(60, seed=1))


def spec(folder: Path, fit: str = "probe", **more: object) -> LocalTeacherSpec:
    fitting = {"epochs": 4, "batch_size": 16, "learning_rate": 3e-3, "head_learning_rate": 1e-2}
    fitting |= more.pop("fitting", {})
    return LocalTeacherSpec.model_validate(
        {"kind": "local", "model": str(folder), "fit": fit, "fitting": fitting, **more}
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    return {f"{f.relative_to(out)}:{k}": v for f in sorted(out.rglob("*.safetensors")) for k, v in load_file(f).items()}


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_probe_writes_a_teacher_that_loads_with_its_head(encoder_folder, task, tmp_path):
    facts = fit_teacher(spec(encoder_folder), task, DATA, tmp_path / "t")
    assert {p.name for p in (tmp_path / "t").iterdir()} == {"encoder", "head.safetensors", "teacher.json"}
    AutoTokenizer.from_pretrained(tmp_path / "t" / "encoder")
    before, after = load_file(encoder_folder / "model.safetensors"), load_file(tmp_path / "t/encoder/model.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in after), "a probe leaves the encoder alone"
    teacher = load_fitted(tmp_path / "t", task)
    assert teacher.labels == LABELS
    assert teacher.layers == 2
    encoded = task.encode(DATA.validation, teacher.processor)
    batch = task.batch(encoded, range(len(encoded)), teacher.processor)
    signals = ask(teacher.model, batch, Wanted(hidden=(HiddenKey(2, "mean"),)))
    accuracy = float((signals.logits.argmax(1).numpy() == encoded.labels).mean())
    assert accuracy == pytest.approx(facts.validation)
    head = load_file(tmp_path / "t/head.safetensors")
    torch.testing.assert_close(
        signals.hidden[HiddenKey(2, "mean")] @ head["weight"].T + head["bias"], signals.logits, rtol=1e-4, atol=1e-4
    )


def test_full_learns_what_a_probe_on_random_features_cannot(encoder_folder, task, tmp_path):
    told: list[tuple[str, int, int]] = []
    facts = fit_teacher(
        spec(encoder_folder, "full"), task, DATA, tmp_path / "t", progress=lambda *what: told.append(what)
    )
    assert facts.validation > 0.9
    assert [p["epoch"] for p in facts.curve] == [1, 2, 3, 4]
    assert facts.curve[-1]["loss"] < facts.curve[0]["loss"]
    assert told[-1] == ("fitting the teacher", 40, 40)
    assert not list(tmp_path.glob("*.checkpoint"))
    assert json.loads((tmp_path / "t/teacher.json").read_text())["labels"] == list(LABELS)


@pytest.mark.parametrize("fit", ["probe", "full"])
def test_same_seed_same_bits_and_the_global_generator_is_left_alone(encoder_folder, task, tmp_path, fit):
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    fit_teacher(spec(encoder_folder, fit), task, DATA, tmp_path / "a")
    assert torch.equal(torch.rand(1), first)
    fit_teacher(spec(encoder_folder, fit), task, DATA, tmp_path / "b")
    assert same(tmp_path / "a", tmp_path / "b")
    if fit == "full":
        fit_teacher(spec(encoder_folder, fit, fitting={"seed": 1}), task, DATA, tmp_path / "c")
        assert not same(tmp_path / "a", tmp_path / "c")


def test_a_run_killed_between_epochs_ends_with_the_same_weights(encoder_folder, task, tmp_path, monkeypatch):
    fit_teacher(spec(encoder_folder, "full"), task, DATA, tmp_path / "whole")
    real, calls = finetune._step, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(finetune, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        fit_teacher(spec(encoder_folder, "full"), task, DATA, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    facts = fit_teacher(spec(encoder_folder, "full"), task, DATA, tmp_path / "cut")
    assert len(calls) == 25 + 20, "two finished epochs of ten steps are not repeated"
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert len(facts.curve) == 4


def test_a_checkpoint_of_another_recipe_is_not_taken(encoder_folder, task, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "_CLIP", 1.0)
    real, calls = finetune._step, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(finetune, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        fit_teacher(spec(encoder_folder, "full", fitting={"seed": 3}), task, DATA, tmp_path / "t")
    monkeypatch.setattr(finetune, "_step", real)
    fit_teacher(spec(encoder_folder, "full"), task, DATA, tmp_path / "t")
    fit_teacher(spec(encoder_folder, "full"), task, DATA, tmp_path / "fresh")
    assert same(tmp_path / "t", tmp_path / "fresh")


def test_a_classifier_with_the_right_labels_goes_on_from_its_own_head(classifier_folder, task, tmp_path):
    facts = fit_teacher(spec(classifier_folder, "full"), task, DATA, tmp_path / "t")
    assert facts.form == "model"
    assert (tmp_path / "t/model/model.safetensors").is_file()
    assert load_fitted(tmp_path / "t", task).layers == 2
    assert facts.curve[-1]["loss"] < facts.curve[0]["loss"]


def test_an_image_teacher_from_a_configuration_is_trained_from_scratch(image_task, tmp_path):
    labels = [i % 2 for i in range(80)]
    images = Dataset.from_dict({"image": tiny.tiny_images(labels), "label": labels})
    config = {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 8],
        "depths": [1, 1],
        "layer_type": "basic",
    }
    given = LocalTeacherSpec.model_validate(
        {
            "kind": "local",
            "config": config,
            "fit": "full",
            "fitting": {"epochs": 6, "batch_size": 16, "learning_rate": 1e-2},
        }
    )
    data = splits(images, images.select(range(40)), ("dark", "light"))
    facts = fit_teacher(given, image_task, data, tmp_path / "t")
    assert facts.validation > 0.9
    teacher = load_fitted(tmp_path / "t", image_task)
    assert teacher.widths == {0: 8, 1: 8, 2: 8}
    fit_teacher(given, image_task, data, tmp_path / "u")
    assert same(tmp_path / "t", tmp_path / "u")


def test_a_text_teacher_from_a_configuration_is_refused(task, tmp_path):
    given = LocalTeacherSpec.model_validate({"kind": "local", "config": {"model_type": "bert"}, "fit": "full"})
    with pytest.raises(TeacherError, match="no tokenizer"):
        fit_teacher(given, task, DATA, tmp_path / "t")


def test_an_image_encoder_gets_a_probe(image_task, tmp_path):
    folder = tiny.save(tiny.tiny_image_model(("x", "y", "z"), "vit"), tiny.tiny_image_processor(), tmp_path / "vit")
    labels = [i % 2 for i in range(60)]
    images = Dataset.from_dict({"image": tiny.tiny_images(labels), "label": labels})
    facts = fit_teacher(spec(folder), image_task, splits(images, images, ("dark", "light")), tmp_path / "t")
    assert facts.validation > 0.9


def test_several_labels_and_a_number(encoder_folder, tmp_path):
    base = rows(90)
    several = make_task(TextClassificationSpec(kind="text_classification", problem="multi_label"), LABELS)
    marks = [[float(label == i) for i in range(3)] for label in base["label"]]
    data = base.remove_columns("label").add_column("label", marks)
    number = make_task(TextClassificationSpec(kind="text_classification", problem="regression"), ("score",))
    scores = base.remove_columns("label").add_column("label", [float(label) for label in base["label"]])
    for task, table, names in ((several, data, LABELS), (number, scores, ("score",))):
        for fit in ("probe", "full"):
            out = tmp_path / f"{task.problem}-{fit}"
            facts = fit_teacher(spec(encoder_folder, fit), task, splits(table, table, names), out)
            if fit == "probe":
                assert facts.validation > 0.3
            else:
                assert facts.curve[-1]["loss"] < facts.curve[0]["loss"]
            assert load_fitted(out, task).labels == names


def test_a_loss_that_is_not_finite_stops(encoder_folder, task, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "training_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(TrainingError, match=r"the loss is nan.*learning_rate"):
        fit_teacher(spec(encoder_folder, "full"), task, DATA, tmp_path / "t")


def test_a_fitted_teacher_for_other_labels_is_refused(encoder_folder, task, tmp_path):
    fit_teacher(spec(encoder_folder), task, DATA, tmp_path / "t")
    other = make_task(task.spec, ("cash", "card", "rate"))
    with pytest.raises(TeacherError, match="fitted for the labels"):
        load_fitted(tmp_path / "t", other)
    (tmp_path / "t/teacher.json").write_text("{}")
    with pytest.raises(TeacherError, match="no fitted teacher"):
        load_fitted(tmp_path / "t", task)


def write_modules(folder: Path, pooling: dict[str, object], *, normalise: bool) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    entries = [
        {"idx": i, "path": paths[i], "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))


def test_auto_pooling_reads_what_sentence_transformers_wrote(tmp_path):
    assert read_pooling(tmp_path, "auto") == ("mean", False)
    write_modules(tmp_path, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, normalise=True)
    assert read_pooling(tmp_path, "auto") == ("first", True)
    assert read_pooling(tmp_path, "mean") == ("mean", True)
    write_modules(tmp_path, {"pooling_mode": "mean"}, normalise=False)
    assert read_pooling(tmp_path, "auto") == ("mean", False)
    write_modules(tmp_path, {"pooling_mode": "lasttoken"}, normalise=False)
    with pytest.raises(TeacherError, match="lasttoken"):
        read_pooling(tmp_path, "auto")


def test_each_pooling_gives_the_vector_it_names(encoder_folder, task, tokenizer, tmp_path):
    encoder = AutoModel.from_pretrained(encoder_folder).eval()
    batch = task.batch(task.encode(rows(4), tokenizer), range(4), tokenizer)
    with torch.no_grad():
        answer = encoder(**batch)
    expected = {"first": answer.last_hidden_state[:, 0], "model": answer.pooler_output}
    for pooling, vector in expected.items():
        fit_teacher(spec(encoder_folder, pooling=pooling), task, DATA, tmp_path / pooling)
        teacher = load_fitted(tmp_path / pooling, task)
        head = teacher.model.model.head
        torch.testing.assert_close(ask(teacher.model, batch, Wanted()).logits, head(vector), rtol=1e-4, atol=1e-4)
        assert (teacher.model.model.encoder.pooler is not None) == (pooling == "model")


def test_a_normalised_probe_is_unmoved_by_the_length_of_the_vector(encoder_folder, task, tokenizer, tmp_path):
    folder = tmp_path / "st"
    tiny.save(AutoModel.from_pretrained(encoder_folder), tokenizer, folder)
    write_modules(folder, {"pooling_mode": "mean"}, normalise=True)
    facts = fit_teacher(spec(folder), task, DATA, tmp_path / "t")
    assert facts.normalise
    assert not fit_teacher(spec(folder, "full"), task, DATA, tmp_path / "u").normalise


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_rises_then_falls_as_told(schedule):
    given = FittingSpec(warmup=0.1, schedule=schedule)
    values = np.array([schedule_factor(i / 100, given) for i in range(100)])
    assert values[0] < 0.02
    assert values[10] == pytest.approx(1.0, abs=0.01)
    assert values[99] == pytest.approx({"linear": 0.011, "cosine": 0.0003, "constant": 1.0}[schedule], abs=0.002)
    assert (np.diff(values[10:]) <= 1e-12).all()
    assert schedule_factor(0.0, FittingSpec(warmup=0.0, schedule=schedule)) == pytest.approx(1.0)


KILLED = """
import os, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from teachers.tiny_texts import LABELS
from teachers import test_fitting as t
from attar.teachers import finetune
from attar.recipe.task import TextClassificationSpec
from attar.tasks import make_task
real, calls = finetune._step, []
def step(*a):
    calls.append(1)
    if len(calls) == 25:
        os.kill(os.getpid(), 9)
    return real(*a)
finetune._step = step
task = make_task(TextClassificationSpec(kind="text_classification", max_length=32), LABELS)
t.fit_teacher(t.spec(Path({folder!r}), "full"), task, t.DATA, Path({out!r}))
"""


@pytest.mark.slow
def test_kill_9_in_an_epoch_and_the_same_command_again(encoder_folder, task, tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parents[1]), folder=str(encoder_folder), out=str(tmp_path / "cut"))
    died = subprocess.run([sys.executable, "-c", code], check=False)
    assert died.returncode == -signal.SIGKILL
    fit_teacher(spec(encoder_folder, "full"), task, DATA, tmp_path / "cut")
    fit_teacher(spec(encoder_folder, "full"), task, DATA, tmp_path / "whole")
    assert same(tmp_path / "cut", tmp_path / "whole")
