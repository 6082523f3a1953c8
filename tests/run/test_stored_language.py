"""Whole runs of language models on stored signals: labelled once, read by several, opened elsewhere, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from language_parts import STUDENT, make

import attar
from attar.errors import PlanError, StoreError
from attar.recipe.load import load_recipe
from attar.run import label_only
from attar.teachers.store import show
from tiny_language import TEXTS, save_language_model, tiny_bpe, tiny_llama

SHORT = {"max_steps": 4, "batch_size": 8, "learning_rate": 0.01, "control": False, "evaluations": 1}
NARROW = {**STUDENT, "config": {**STUDENT["config"], "hidden_size": 8, "intermediate_size": 16}}


def recipe(root: Path, **changes: Any) -> Path:
    """A recipe whose teacher is asked once; `teacher` adds to its section."""
    told = {"signals": "store", **changes.pop("teacher", {})}
    path = make(root, **{"training": SHORT, **changes})
    return change(path, teacher={**json.loads(path.read_text())["teacher"], **told})


def change(path: Path, **sections: Any) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **sections}), encoding="utf-8")
    return path


def stage(facts: Any, name: str) -> Any:
    return next(one for one in facts.stages if one.name == name)


def test_a_teacher_is_asked_once_for_several_students(tmp_path: Path) -> None:
    training = {**SHORT, "epochs": 3, "extra": {"dataloader_num_workers": 1}, "control": True}
    training.pop("max_steps")
    path = recipe(tmp_path, training=training, teacher={"targets": {"kind": "sampled", "threshold": 0.005}})
    facts = attar.distill(path, tmp_path / "out")
    signals = facts.signals
    assert signals is not None
    assert (signals.mode, signals.spot_check) == ("store", None)
    assert signals.tokens is not None
    assert signals.bytes is not None
    assert signals.rows == facts.data.rows["train"]
    assert signals.bytes_per_token == pytest.approx(signals.bytes / signals.tokens)
    held = show(tmp_path / "out")
    assert (held["tokens"], held["bytes"], held["key"]) == (signals.tokens, signals.bytes, signals.key)
    report = (tmp_path / "out" / "report.html").read_text()
    assert f"{signals.tokens} tokens, {signals.bytes_per_token:.1f} bytes each" in report

    other = attar.distill(change(path, student=NARROW), tmp_path / "out")
    assert stage(other, "signals").cached
    assert other.signals == signals
    assert other.student.params < facts.student.params

    live = attar.distill(
        change(path, student=STUDENT, teacher={"kind": "local", "model": str(tmp_path / "teacher"), "licence": "mit"}),
        tmp_path / "live",
    )
    assert live.signals is not None
    assert (live.signals.mode, live.signals.tokens) == ("live", None)
    for mine, theirs in zip(facts.training["student"].curve, live.training["student"].curve, strict=True):
        if "loss" in theirs:
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.1)
    assert facts.quality.student == pytest.approx(live.quality.student, rel=0.1)


@pytest.mark.parametrize(
    ("vocabulary", "precision"),
    [
        ({"keep": "all"}, "fp32"),
        ({"keep": "all"}, "bf16"),
        ({"keep": "used"}, "fp32"),
        ({"keep": "used", "min_count": 9}, "fp32"),
    ],
)
def test_a_store_is_opened_elsewhere(
    tmp_path: Path, vocabulary: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attar.precision.has_bf16", lambda: False)
    student = {**STUDENT, "vocabulary": vocabulary}
    objectives = [{"kind": "sparse_kl", "k": 20}, {"kind": "hard_labels", "weight": 0.1}]
    path = recipe(
        tmp_path, student=student, objectives=objectives, teacher={"targets": {"kind": "top_k", "k": 20}}, chat=True,
        task={"kind": "causal_lm", "prompt": "prompt", "max_length": 48}, training={**SHORT, "precision": precision},
    )  # fmt: skip
    folder = label_only(load_recipe(path), tmp_path / "out")
    told = json.loads((folder / "manifest.json").read_text())
    assert told["facts"]["dtype"] == {"fp32": "float32", "bf16": "bfloat16"}[precision]
    shutil.copytree(folder, tmp_path / "copy")
    teacher = {"kind": "stored", "path": str(tmp_path / "copy"), "rescore_with": str(tmp_path / "teacher")}
    facts = attar.distill(change(path, teacher=teacher), tmp_path / "other")
    assert facts.signals is not None
    assert (facts.signals.mode, facts.signals.spot_check) == ("stored", 0.0)
    assert facts.signals.key == folder.name
    imitated = [one for one in facts.warnings if one.startswith("training.precision: this CPU has no instructions for")]
    assert len(imitated) == (precision == "bf16")
    spelled = "min_count" in vocabulary  # in pieces, every row of so few words: nothing is left to compare
    assert (facts.evaluation.kl_to_teacher is None) is spelled
    curve = [point["term_sparse_kl"] for point in facts.training["student"].curve if "loss" in point]
    assert curve[-1] < curve[0]


def test_the_teacher_reads_rare_words_in_the_students_pieces(tmp_path: Path) -> None:
    """Live and stored alike: where a student's vocabulary lacks a word, both read it spelled."""
    found = {}
    for count in (1, 12):
        student = {**STUDENT, "vocabulary": {"keep": "used", "min_count": count}}
        (tmp_path / str(count)).mkdir()
        path = recipe(
            tmp_path / str(count), student=student, objectives=[{"kind": "sparse_kl", "k": 20}],
            teacher={"targets": {"kind": "top_k", "k": 20}},
        )  # fmt: skip
        stored = attar.distill(path, tmp_path / f"stored-{count}")
        teacher = {**json.loads(path.read_text())["teacher"], "signals": "live"}
        teacher.pop("targets")
        live = attar.distill(change(path, teacher=teacher), tmp_path / f"live-{count}")
        for mine, theirs in zip(stored.training["student"].curve, live.training["student"].curve, strict=True):
            if "loss" in theirs:
                assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.03)
        assert stored.signals is not None
        found[count] = stored.signals.tokens, stored.training["student"].initial["tokens_kept"]
    (few, many), (more, fewer) = found[1], found[12]
    assert fewer < many
    assert more > few, "spelled words are more tokens"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, and the store of its teacher in `out`."""
    root = tmp_path_factory.mktemp("labelled")
    path = recipe(root, task={"kind": "causal_lm", "prompt": "prompt", "max_length": 32}, chat=True)
    label_only(load_recipe(path), root / "out")
    return root


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": {"kind": "causal_lm", "prompt": "prompt", "max_length": 30}},
         "max_length: the store has 32, this run 30"),
        ({"task": {"kind": "causal_lm", "prompt": "prompt", "max_length": 32, "template": "never"}},
         "template: the store has 'auto', this run 'never'"),
        ({"task": {"kind": "causal_lm", "max_length": 32}}, "rows: the store has 'prompt', this run 'text'"),
        ({"student": {**STUDENT, "vocabulary": {"keep": "used"}}}, "outputs: the store has None, this run"),
        ({"rescore_with": "other weights"}, "of the probability stands elsewhere in what .* says now"),
        ({"rescore_with": "other tokens"}, "tokenizer: the store has '.*', this run"),
    ],
    ids=["length", "template", "rows", "student's tokens", "teacher", "tokenizer"],
)  # fmt: skip
def test_a_store_of_something_else_is_refused(
    labelled: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    other = tmp_path / "teacher"
    match changes.pop("rescore_with", None):
        case "other weights":
            tokenizer = tiny_bpe(chat=True)
            save_language_model(other, tiny_llama(tokenizer, seed=5), tokenizer)
        case "other tokens":
            tokenizer = tiny_bpe([*TEXTS, "zebra"], chat=True)
            save_language_model(other, tiny_llama(tokenizer), tokenizer)
        case _:
            other = labelled / "teacher"
    teacher = {"kind": "stored", "path": str(labelled / "out"), "rescore_with": str(other), "licence": "mit"}
    path = tmp_path / "recipe.yaml"
    shutil.copy(labelled / "recipe.yaml", path)
    with pytest.raises(StoreError, match=told):
        attar.distill(change(path, teacher=teacher, **changes), tmp_path / "out")


def test_other_rows_than_those_labelled_are_told(labelled: Path, tmp_path: Path) -> None:
    teacher = {"kind": "stored", "path": str(labelled / "out"), "spot_check": 0}
    path = recipe(tmp_path, task={"kind": "causal_lm", "prompt": "prompt", "max_length": 32}, chat=True)
    file = tmp_path / "rows" / "train.jsonl"
    file.write_text(file.read_text().replace("cat", "cow"))
    with pytest.raises(StoreError, match=r"sequences are not in this store.*attar label RECIPE"):
        attar.distill(change(path, teacher=teacher), tmp_path / "out")


def test_a_language_model_is_not_judged_without_its_teacher(labelled: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled / "out", tmp_path / "copy")
    (manifest,) = (tmp_path / "copy").rglob("manifest.json")
    said = json.loads(manifest.read_text())
    said["about"]["folder"] = str(tmp_path / "gone")
    manifest.write_text(json.dumps(said))
    path = tmp_path / "recipe.yaml"
    shutil.copy(labelled / "recipe.yaml", path)
    with pytest.raises(PlanError, match=r"the teacher that made it is not here.*teacher\.rescore_with"):
        attar.distill(change(path, teacher={"kind": "stored", "path": str(tmp_path / "copy")}), tmp_path / "out")
