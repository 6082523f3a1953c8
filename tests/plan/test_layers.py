"""Objectives that compare layers, as the plan sees them: signals by name, how they come, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from plan.samples import plan_of, problems_of, write_model, write_store

KEEP = {"vocabulary": {"keep": "all"}}
RESNET = {"model_type": "resnet", "depths": [1, 1], "hidden_sizes": [8, 8], "embedding_size": 8, "layer_type": "basic"}
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
       "intermediate_size": 32, "image_size": 8, "patch_size": 4}  # fmt: skip


def images(config: dict, student: dict | None = None) -> dict:
    return {
        "task": {"kind": "image_classification", "image_size": 8},
        "teacher": {"kind": "local", "model": None, "config": config, "fit": "full"},
        "student": {"kind": "from_config", "config": student or config},
        "data": {"source": "digits"},
    }


@pytest.mark.parametrize(
    ("objective", "needed"),
    [
        ({"kind": "attention_relations", "of": ["key", "value"]}, ("attention:4:key", "attention:4:value")),
        ({"kind": "attention_relations", "of": ["query"], "layers": "uniform"},
         ("attention:2:query", "attention:4:query")),
        ({"kind": "attention_relations", "of": ["query"], "layers": [[1, -3]]}, ("attention:2:query",)),
        ({"kind": "cka"}, ("hidden:4:mean",)),
        ({"kind": "crd", "layers": "cka", "pool": "first"}, ("hidden:cka:first",)),
        ({"kind": "rkd_angle", "layers": [[1, 3], [-1, -1]]}, ("hidden:3:mean", "hidden:4:mean")),
    ],
)  # fmt: skip
def test_signals_bear_the_names_of_a_store(tmp_path: Path, objective: dict, needed: tuple[str, ...]) -> None:
    plan = plan_of(tmp_path, objectives=[objective], student=KEEP)
    assert plan.signals.needed == needed
    assert plan.signals.mode == ("live" if objective["kind"] == "attention_relations" else "store")


def test_maps_are_asked_live(tmp_path: Path) -> None:
    objectives = [{"kind": "review_kd"}, {"kind": "similarity_preserving", "pool": "map"}]
    plan = plan_of(tmp_path, **images(RESNET), objectives=objectives)
    assert (plan.signals.mode, plan.signals.needed) == ("live", ("hidden:1:map", "hidden:2:map"))
    stored = images(RESNET)
    stored["teacher"]["signals"] = "store"
    found = problems_of(tmp_path, **stored, objectives=[*objectives, {"kind": "hidden"}])
    assert [line.partition(": ")[0] for line in found] == ["objectives[0]", "objectives[1]"]
    assert all("feature maps are not stored. Use teacher.signals: live" in line for line in found)


def told(found: list[str], *words: str) -> None:
    assert len(found) == len(words), found
    for line, word in zip(found, words, strict=True):
        assert word in line


def test_what_a_model_surely_does_not_have(tmp_path: Path) -> None:
    maps = [{"kind": "attention_transfer"}, {"kind": "cka", "pool": "map"}]
    told(
        problems_of(tmp_path, objectives=maps),
        "objectives[0].kind: feature maps are of images, but the task is on texts. Use hidden or attention_relations",
        "objectives[1].pool: feature maps are of images, but the task is on texts. Use pool: mean",
    )
    told(
        problems_of(tmp_path, **images(VIT), objectives=maps[:1]),
        'objectives[0].kind: the teacher, a "vit", has tokens, no feature maps',
        'objectives[0].kind: the student, a "vit", has tokens',
    )
    told(
        problems_of(tmp_path, **images(RESNET), objectives=[{"kind": "attention_relations"}]),
        'objectives[0].kind: the teacher, a "resnet", has no attention. Use attention_transfer or hidden',
        'the student, a "resnet", has no attention',
    )
    assert plan_of(tmp_path, **images(VIT), objectives=[{"kind": "attention_relations"}]).signals.mode == "live"


def test_relations_of_tokens_need_the_same_tokens_heads_and_layers(tmp_path: Path) -> None:
    relations = {"kind": "attention_relations", "layers": [[0, 4], [1, 5]], "heads": 3}
    told(
        problems_of(tmp_path, objectives=[relations]),
        "objectives[0].layers[0]: 0 is no layer of the student. Allowed: 1 to 2",
        "objectives[0].layers[1]: 5 is no layer of the teacher. Allowed: 1 to 4",
        'objectives[0].kind: "attention_relations" compares token by token',
        "objectives[0].heads: 3 relation heads do not divide the teacher's width 16",
        "objectives[0].heads: 3 relation heads do not divide the student's width 8",
    )
    training = {"subword_dropout": 0.1}
    told(
        problems_of(tmp_path, objectives=[{"kind": "attention_relations"}], student=KEEP, training=training),
        "training.subword_dropout: it changes the number of tokens",
    )


def test_features_stay_within_a_family_and_relations_need_not(tmp_path: Path) -> None:
    student = {"kind": "pretrained", "model": str(write_model(tmp_path / "other", model_type="roberta"))}
    told(
        problems_of(tmp_path, student=student, objectives=[{"kind": "attention_relations"}]),
        'objectives[0].across_families: the teacher is a "bert", the student a "roberta"',
    )
    assert plan_of(
        tmp_path,
        student=student,
        objectives=[{"kind": "attention_relations", "across_families": True}, {"kind": "cka"}],
    )


def test_a_batch_objective_says_what_it_sees_and_holds(tmp_path: Path) -> None:
    objectives = [{"kind": "rkd_angle"}, {"kind": "crd", "negatives": 68}, {"kind": "cka"}, {"kind": "hidden"}]
    plan = plan_of(tmp_path, objectives=objectives, training={"batch_size": 256})
    assert plan.objectives == (
        "rkd_angle  weight 1; sees the 256 rows of one micro-batch, holds 16,777,216 numbers a side and pair of layers",
        "crd  weight 1, negatives 68; sees the 256 rows of one micro-batch, holds 82,944 numbers a side and pair of "
        "layers",
        "cka  weight 1; sees the 256 rows of one micro-batch, holds 65,536 numbers a side and pair of layers",
        "hidden  weight 1",
    )
    told([line for line in plan.warnings if "rkd" in line], "rkd_angle holds 256^3 numbers a side and pair, 67 MB")
    lonely = plan_of(tmp_path, objectives=objectives, training={"batch_size": 2}).warnings
    told([line for line in lonely if "too few" in line], "rkd_angle relates", "cka relates")
    dist = plan_of(tmp_path, objectives=[{"kind": "dist"}], training={"batch_size": 8}).objectives
    assert dist == ("dist  weight 1; sees the 8 rows of one micro-batch",)


def test_a_store_serves_what_it_offers(tmp_path: Path) -> None:
    student = {"kind": "pretrained", "model": str(write_model(tmp_path / "small"))}
    write_store(tmp_path / "store" / "signals" / "key", ["logits", "hidden:2:mean", "hidden:4:mean"])
    teacher = {"kind": "stored", "path": str(tmp_path / "store")}
    served = [{"kind": "cka"}, {"kind": "hidden", "layers": "cka"}, {"kind": "rkd_distance", "layers": [[1, 2]]}]
    assert plan_of(tmp_path, teacher=teacher, student=student, objectives=served).signals.mode == "stored"
    absent = [
        {"kind": "cka", "pool": "first", "layers": "cka"},
        {"kind": "rkd_distance", "layers": [[1, 3]]},
        {"kind": "attention_relations", "of": ["key"]},
    ]
    told(
        problems_of(tmp_path, teacher=teacher, student=student, objectives=absent),
        "objectives[0]: cka needs hidden:cka:first, but the store offers",
        "objectives[1]: rkd_distance needs hidden:3:mean",
        'objectives[2].kind: "attention_relations" compares token by token',  # the store's tokenizer is not there
        "objectives[2]: queries, keys and values are not stored. Use teacher.kind: local",
    )
