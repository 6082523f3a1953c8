"""Parts of a recipe that do not fit each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.plan import make_plan
from attar.recipe.load import recipe_from
from plan.samples import merged, plan_of, problems_of, recipe_data, write_model, write_rows, write_store

REGRESSION = {"problem": "regression"}


def only(found: list[str], *words: str) -> None:
    assert len(found) == 1, found
    for word in words:
        assert word in found[0]


def test_objectives_against_regression(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", [0.5, 1.5, 2.5, 3.5])
    write_model(tmp_path / "teacher", id2label={"0": "score"})
    objectives = [
        {"kind": "forward_kl"},
        {"kind": "logit_mse", "standardise": True},
        {"kind": "hard_labels", "label_smoothing": 0.1},
    ]
    found = problems_of(tmp_path, task=REGRESSION, objectives=objectives)
    assert [line.partition(": ")[0] for line in found] == [
        "objectives[0].kind", "objectives[1].standardise", "objectives[2].label_smoothing",
    ]  # fmt: skip
    assert plan_of(tmp_path, task=REGRESSION, objectives=[{"kind": "logit_mse"}, {"kind": "hidden"}]).signals.needed


def test_a_function_is_recorded_but_cannot_be_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", [0.5, 1.5, 2.5, 3.5])
    write_model(tmp_path / "teacher", id2label={"0": "score"})
    mine = {"kind": "python", "name": "my_loss", "code": "0123456789abcdef", "weight": 0.5}
    changes = {"task": REGRESSION, "objectives": [mine]}
    only(problems_of(tmp_path, **changes), "objectives[0].kind", "attar.distill_models", "hand it over again")
    handed = make_plan(recipe_from(merged(recipe_data(tmp_path), **changes)), python_objects=True, out=tmp_path)
    assert handed.objectives == ("my_loss  weight 0.5, code 0123456789abcdef",)
    assert handed.signals.needed == ("logits",)


def test_every_objective_fits_multi_label(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", [["a"], ["b"], ["a", "b"], []])
    kinds = ("forward_kl", "reverse_kl", "jsd", "logit_mse", "hidden", "hard_labels")
    plan = plan_of(tmp_path, task={"problem": "multi_label"}, objectives=[{"kind": kind} for kind in kinds])
    assert plan.data.labels == ("a", "b")


def test_a_store_must_offer_what_the_objectives_need(tmp_path: Path) -> None:
    student = {"kind": "pretrained", "model": str(write_model(tmp_path / "small"))}
    store = str(write_store(tmp_path / "store" / "signals" / "key", ["logits", "hidden:4:mean"]))
    teacher = {"kind": "stored", "path": str(tmp_path / "store")}
    assert plan_of(tmp_path, teacher=teacher, student=student).signals.offered == ("logits", "hidden:4:mean")
    assert plan_of(tmp_path, teacher={**teacher, "path": store}, student=student).signals.mode == "stored"
    plan = plan_of(tmp_path, teacher=teacher, student=student, objectives=[{"kind": "hidden", "layers": "last"}])
    assert (plan.teacher.family, plan.teacher.layers, plan.teacher.params.likely) == ("bert", 4, 1234)
    wanted = [{"kind": "hidden", "layers": [[1, -1]]}, {"kind": "hidden", "layers": [[1, 4]], "pool": "first"}]
    only(
        problems_of(tmp_path, teacher=teacher, student=student, objectives=wanted),
        "objectives[1]",
        "needs hidden:4:first",
    )
    only(problems_of(tmp_path, teacher=teacher), "from_teacher needs the teacher's weights")
    only(problems_of(tmp_path, teacher={**teacher, "path": str(tmp_path / "rows")}, student=student), "holds no store")


def test_a_store_of_other_labels_or_without_a_shard_is_refused(tmp_path: Path) -> None:
    student = {"kind": "pretrained", "model": str(write_model(tmp_path / "small"))}
    store = write_store(tmp_path / "store", ["logits"], labels=("aa", "b"))
    (store / "0.safetensors").unlink()
    found = problems_of(tmp_path, teacher={"kind": "stored", "path": str(store)}, student=student)
    assert len(found) == 2
    assert "shard 0.safetensors is missing" in found[0]
    assert 'labels are not the data\'s: "a"' in found[1]


def test_hidden_states_of_tokens_need_one_tokenizer_and_a_live_teacher(tmp_path: Path) -> None:
    objectives = [{"kind": "hidden", "pool": "none"}]
    only(problems_of(tmp_path, objectives=objectives), "objectives[0].pool", "its vocabulary is reduced")
    keep = {"vocabulary": {"keep": "all"}}
    assert plan_of(tmp_path, objectives=objectives, student=keep).signals.mode == "live"
    only(problems_of(tmp_path, objectives=objectives, student=keep, teacher={"signals": "store"}), "not stored")


def test_hidden_states_across_families_are_opt_in(tmp_path: Path) -> None:
    student = {"kind": "pretrained", "model": str(write_model(tmp_path / "other", model_type="roberta"))}
    only(
        problems_of(tmp_path, student=student, objectives=[{"kind": "hidden"}]),
        "across_families",
        '"bert"',
        '"roberta"',
    )
    assert plan_of(tmp_path, student=student, objectives=[{"kind": "hidden", "across_families": True}])


def test_layers_of_hidden_must_exist_on_both_sides(tmp_path: Path) -> None:
    found = problems_of(tmp_path, objectives=[{"kind": "hidden", "layers": [[2, 4], [3, 4], [-3, 5]]}])
    assert [line.partition(":")[0] for line in found] == ["objectives[0].layers[1]", "objectives[0].layers[2]"]
    assert "Allowed: 0 (the embeddings) to 4." in found[1]
    uniform = plan_of(tmp_path, objectives=[{"kind": "hidden", "layers": "uniform"}])
    assert uniform.signals.needed == ("hidden:2:mean", "hidden:4:mean")


@pytest.mark.parametrize(
    ("student", "place", "told"),
    [
        ({"layers": 5}, "student.layers", "Allowed: 1 to 4."),
        ({"layers": [0, 4]}, "student.layers", "[4] are not layers of the teacher. Allowed: 0 to 3."),
        ({"layers": [2, 0]}, "student.layers", "must ascend"),
        ({"hidden_size": 32}, "student.hidden_size", "wider than the teacher's 16"),
        ({"heads": 3}, "student.heads", "3 heads do not divide the width 8. Set student.heads to one of 1, 2, 4."),
        ({"hidden_size": 15}, "student.hidden_size", "with the teacher's head size 4, 3 heads"),
        ({"max_positions": 32}, "student.max_positions", "task.max_length is 64"),
    ],
)
def test_a_cut_must_fit_the_teacher(tmp_path: Path, student: dict, place: str, told: str) -> None:
    if student == {"hidden_size": 15}:
        assert plan_of(tmp_path, student=student)  # 3 heads of 5
        student = {"hidden_size": 13}
        told = "3 heads do not divide the width 13"
    only(problems_of(tmp_path, student=student), place, told)


def test_families_that_cannot_be_cut(tmp_path: Path) -> None:
    write_model(tmp_path / "teacher", model_type="mamba", architectures=["MambaForSequenceClassification"])
    only(problems_of(tmp_path), 'cannot cut a "mamba" teacher', "from_config")


def test_configurations_are_checked_against_their_class(tmp_path: Path) -> None:
    student = {"kind": "from_config", "config": {"model_type": "bert", "hiden_size": 8}}
    only(problems_of(tmp_path, student=student), "student.config.hiden_size", 'Did you mean "hidden_size"?')
    student = {"kind": "from_config", "config": {"model_type": "bart2"}}
    only(problems_of(tmp_path, student=student), "student.config.model_type", 'Did you mean "bart"?')
    student = {"kind": "from_config", "config": {"model_type": "bert", "hidden_size": 10, "num_attention_heads": 4}}
    only(problems_of(tmp_path, student=student), "4 attention heads do not divide the width 10")
    student = {"kind": "from_config", "config": {"model_type": "bert", "max_position_embeddings": 32}}
    only(problems_of(tmp_path, student=student), "task.max_length 64")


def test_settings_of_the_other_modality_are_refused(tmp_path: Path) -> None:
    found = problems_of(
        tmp_path,
        training={"mixup": 0.2},
        data={"transfer": [{"kind": "augment_image", "rows": 3}]},
        task={"metric": "pearson"},
    )
    assert [line.partition(": ")[0] for line in found] == ["data.transfer[0].kind", "task.metric", "training.mixup"]


def test_digits_are_images_and_mixup_wants_a_live_teacher(tmp_path: Path) -> None:
    resnet = {"model_type": "resnet", "depths": [1], "hidden_sizes": [8], "embedding_size": 8, "layer_type": "basic"}
    images = {
        "task": {"kind": "image_classification", "image_size": 8},
        "teacher": {"kind": "local", "model": None, "config": resnet, "fit": "full"},
        "student": {"kind": "from_config", "config": resnet},
        "data": {"source": "digits"},
    }
    assert plan_of(tmp_path, **images, training={"mixup": 0.2}).signals.mode == "live"
    stored = {**images, "teacher": {**images["teacher"], "signals": "store"}}
    only(problems_of(tmp_path, **stored, training={"mixup": 0.2}), "training.mixup", "live")
    only(problems_of(tmp_path, **images, training={"token_dropout": 0.2}), "training.token_dropout")
    only(problems_of(tmp_path, **images, training={"subword_dropout": 0.2}), "training.subword_dropout")
    only(problems_of(tmp_path, **images, training={"packing": "packed"}), "training.packing", "language models")
    only(
        problems_of(tmp_path, data={"source": "digits"}, teacher={"fit": "probe"}), "data.source", "`digits` are images"
    )


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"num_train_epochs": 3}, "Use training.epochs instead."),
        ({"output_dir": "x"}, "Use --out instead."),
        ({"logging_strategy": "epoch"}, "Use training.extra.logging_steps instead."),
        ({"disable_tqdm": False}, "a bar of its own where standard error is a terminal. Remove it."),
        ({"fsdp": "full_shard"}, "attar sets fsdp itself"),
        ({"dataloader_num_worker": 3}, 'Did you mean "dataloader_num_workers"?'),
        ({"dataloader_pin_memory": "perhaps"}, "Allowed: true or false."),
    ],
)
def test_extra_holds_only_other_fields_of_training_arguments(tmp_path: Path, extra: dict, told: str) -> None:
    only(problems_of(tmp_path, training={"extra": extra}), f"training.extra.{next(iter(extra))}", told)


def test_absent_packages_are_told_with_the_pip_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    absent = {"onnx", "tensorboard", "timm"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name in absent else real(name, *rest))
    found = problems_of(
        tmp_path, export=[{"kind": "onnx"}, {"kind": "onnx", "precision": "int8"}], training={"tensorboard": True}
    )
    assert len(found) == 2
    assert 'pip install "attar[onnx]"' in found[0]
    assert 'pip install "attar[tensorboard]"' in found[1]


def test_half_precision_needs_a_gpu(tmp_path: Path) -> None:
    only(problems_of(tmp_path, training={"precision": "fp16", "device": "cpu"}), "training.precision")


def test_labels_of_the_teacher_against_those_of_the_data(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", ["happy", "sad", "angry", "sad", "sad"])
    write_model(tmp_path / "teacher", id2label={"0": "Happy", "1": "SAD", "2": "furious"})
    only(problems_of(tmp_path), "teacher.model", "does not know 1 of the data's 3 labels", '"angry"')
    assert plan_of(tmp_path, teacher={"label_map": {"furious": "angry"}})
    only(
        problems_of(tmp_path, teacher={"label_map": {"furius": "angry"}}),
        "teacher.label_map",
        'Did you mean "furious"?',
    )
    only(
        problems_of(tmp_path, teacher={"label_map": {"furious": "angri"}}), "teacher.label_map", 'Did you mean "angry"?'
    )
    write_model(tmp_path / "teacher", id2label={"0": "LABEL_0", "1": "LABEL_1"})
    only(problems_of(tmp_path), "2 unnamed outputs, the data has 3 labels")
    write_model(tmp_path / "teacher", architectures=["BertModel"])
    only(problems_of(tmp_path), "teacher.fit", "no classification head", "fit: probe")
    assert plan_of(tmp_path, teacher={"fit": "probe"}).teacher.params.low == 10_000
