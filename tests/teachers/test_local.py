from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tiny
from attar.errors import TeacherError
from attar.recipe.task import TextClassificationSpec
from attar.recipe.teacher import LocalTeacherSpec
from attar.signals import HiddenKey, Wanted, ask
from attar.tasks import make_task
from attar.teachers.local import from_module, load_local
from attar.teachers.origin import own_labels
from teachers.tiny_texts import LABELS, rows


def spec(model: object, **more: object) -> LocalTeacherSpec:
    return LocalTeacherSpec.model_validate({"kind": "local", "model": str(model), **more})


def test_a_folder_is_loaded_frozen_with_its_facts(classifier_folder, task):
    teacher = load_local(spec(classifier_folder, licence="MIT"), task)
    assert not any(p.training for p in teacher.model.modules())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert teacher.family == "bert"
    assert teacher.layers == 2
    assert teacher.widths == {0: 32, 1: 32, 2: 32}
    assert teacher.labels == LABELS
    assert teacher.source.licence == "MIT"
    assert teacher.folder == classifier_folder
    assert teacher.warnings == []


def test_the_hash_follows_the_weights(classifier_folder, task, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(classifier_folder, other)
    assert load_local(spec(other), task).source.hash == load_local(spec(classifier_folder), task).source.hash
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model.safetensors").write_bytes(content)
    assert load_local(spec(other), task).source.hash != load_local(spec(classifier_folder), task).source.hash


def test_logits_come_in_the_order_of_the_tasks_labels(tokenizer, task, tmp_path):
    model = tiny.tiny_bert(tokenizer, ("rate", "card", "cash"))
    folder = tiny.save(model, tokenizer, tmp_path / "m")
    teacher = load_local(spec(folder), task)
    encoded = task.encode(rows(5), tokenizer)
    batch = task.batch(encoded, range(5), tokenizer)
    with torch.no_grad():
        plain = model(**batch).logits
    assert torch.equal(ask(teacher.model, batch, Wanted()).logits, plain[:, [1, 2, 0]])


def test_unknown_labels_are_an_error(tokenizer, task, tmp_path):
    folder = tiny.save(tiny.tiny_bert(tokenizer, ("card", "csh", "rate")), tokenizer, tmp_path / "m")
    with pytest.raises(TeacherError, match=r'"cash" \(nearest: "csh"\)'):
        load_local(spec(folder), task)
    mapped = load_local(spec(folder, label_map={"csh": "cash"}), task)
    assert mapped.labels == LABELS


def test_own_labels_of_a_folder(classifier_folder, encoder_folder):
    assert own_labels(classifier_folder) == LABELS
    assert own_labels(encoder_folder) == ()


def test_an_encoder_without_head_is_refused_with_the_way_out(encoder_folder, task):
    with pytest.raises(TeacherError, match=r"no classification head.*fit: probe"):
        load_local(spec(encoder_folder), task)


def test_a_name_from_a_package(classifier_folder, task, tmp_path, monkeypatch):
    package = tmp_path / "tinypack"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copytree(classifier_folder, package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_local(spec("package:tinypack/model"), task).labels == LABELS
    assert "tinypack" not in sys.modules


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_hostile_pickle_is_named_and_never_run(classifier_folder, task, tmp_path, how):
    folder = tmp_path / "hostile"
    shutil.copytree(classifier_folder, folder)
    (folder / "model.safetensors").unlink()
    trace, file = tmp_path / "ran", folder / "pytorch_model.bin"
    if how == "torch":
        torch.save({"weight": Bomb(str(trace))}, file)
    else:
        file.write_bytes(pickle.dumps(Bomb(str(trace))))
    with pytest.raises(TeacherError) as caught:
        load_local(spec(folder), task)
    assert "pytorch_model.bin" in str(caught.value)
    assert "Convert it to safetensors" in str(caught.value)
    assert not trace.exists()


def test_a_lone_file_is_no_model(classifier_folder, task, tmp_path):
    with pytest.raises(TeacherError, match=r"model\.safetensors: weights alone"):
        load_local(spec(classifier_folder / "model.safetensors"), task)
    file = tmp_path / "evil.pt"
    torch.save({"weight": Bomb(str(tmp_path / "ran"))}, file)
    with pytest.raises(TeacherError, match=r"evil\.pt: this checkpoint is a pickle"):
        load_local(spec(file), task)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(TeacherError, match="handed over in Python"):
        load_local(spec("python"), task)


def test_a_hostile_pickle_beside_safetensors_is_not_opened(classifier_folder, task, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(classifier_folder, folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(str(tmp_path / "ran"))))
    load_local(spec(folder), task)
    assert not (tmp_path / "ran").exists()


def test_an_honest_pickle_is_loaded(classifier_folder, tokenizer, task, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(classifier_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save(tiny.tiny_bert(tokenizer, LABELS).state_dict(), folder / "pytorch_model.bin")
    assert load_local(spec(folder), task).layers == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 20), "cannot be loaded"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "config.json").unlink(), r"no config\.json"),
    ],
    ids=["no weights", "damaged weights", "damaged config", "no config"],
)
def test_damaged_folders(classifier_folder, task, tmp_path, damage, message):
    folder = tmp_path / "m"
    shutil.copytree(classifier_folder, folder)
    damage(folder)
    with pytest.raises(TeacherError, match=message):
        load_local(spec(folder), task)


def test_remote_code_needs_the_field(classifier_folder, task, tmp_path):
    folder = tmp_path / "remote"
    shutil.copytree(classifier_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(TeacherError, match="trust_remote_code"):
        load_local(spec(folder), task)
    assert not (tmp_path / "ran").exists()


def test_a_module_handed_over(tokenizer, task):
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.EmbeddingBag(len(tokenizer), 3)

        def forward(self, input_ids, attention_mask, token_type_ids=None):
            return self.embedding(input_ids)

    teacher = from_module(Bare(), tokenizer, task)
    assert teacher.widths == {}
    assert teacher.labels == LABELS
    assert teacher.family == "Bare"
    with pytest.raises(TeacherError, match="no hidden states"):
        teacher.resolve(Wanted(hidden=(HiddenKey(1, "mean"),)))
    assert from_module(Bare(), tokenizer, task).source.hash != teacher.source.hash


def test_a_module_that_cannot_take_the_inputs_is_named(tokenizer, task):
    class Wrong(nn.Module):
        def forward(self, pixels):
            return pixels

    with pytest.raises(TeacherError, match=r"Wrong: its forward does not take"):
        from_module(Wrong(), tokenizer, task)


def test_negative_layers_count_from_the_end(teacher):
    assert teacher.resolve(Wanted(hidden=(HiddenKey(-1, "mean"),))).hidden == (HiddenKey(2, "mean"),)
    with pytest.raises(TeacherError, match="layers 0 to 2, but layer 3"):
        teacher.resolve(Wanted(hidden=(HiddenKey(3, "mean"),)))


def test_image_models_tell_the_width_of_each_stage(image_task):
    model = tiny.tiny_image_model(("dark", "light"))
    teacher = from_module(model, tiny.tiny_image_processor(), image_task)
    assert teacher.widths == {0: 8, 1: 16, 2: 16}


def test_timm_by_name_is_fetched_from_its_hub_repository(image_task, monkeypatch, tmp_path):
    timm = pytest.importorskip("timm")
    asked: list[str] = []
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: SimpleNamespace(hf_hub_id=f"timm/{name}.a1_in1k"))

    def fetch(repository: str, **_: object) -> str:
        asked.append(repository)
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(TeacherError, match=r"timm:resnet18: cannot be fetched from the Hub \(offline\)"):
        load_local(spec("timm:resnet18"), image_task)
    assert asked == ["timm/resnet18.a1_in1k"]


def test_a_timm_folder_answers_with_hidden_states(image_task, tmp_path):
    pytest.importorskip("timm")
    config = {"model_type": "timm_wrapper", "architecture": "resnet10t"}
    model = image_task.build_model(config)
    folder = tiny.save(model, tiny.tiny_image_processor(), tmp_path / "timm")
    teacher = load_local(spec(folder), image_task)
    assert len(teacher.widths) > 2


def test_pairs_and_regression_measure_too(tokenizer):
    task = make_task(
        TextClassificationSpec(kind="text_classification", text_pair="b", problem="regression"), ("score",)
    )
    model = tiny.tiny_bert(tokenizer, ("score",), problem="regression")
    assert from_module(model, tokenizer, task).layers == 2
