"""Whole runs with several teachers: mixed or routed, classifiers and language models, live and stored, resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from language_parts import make as make_language
from run_parts import LABELS, recipe, write_data
from scipy.special import softmax
from transformers import BertForSequenceClassification

import attar
from attar.errors import DataError, PlanError
from attar.recipe.load import load_recipe
from attar.run import label_only
from attar.signals import Wanted
from attar.tasks import make_task
from attar.teachers.local import load_local
from attar.teachers.scoring import score_rows
from attar.teachers.several import routing_of
from attar.teachers.store import open_store
from tiny import save, tiny_bert, tiny_tokenizer
from tiny_language import save_language_model, tiny_bpe, tiny_llama

SHORT = {"epochs": 2, "batch_size": 16, "learning_rate": 0.005, "control": False, "evaluations": 1}


def classifiers(root: Path, *, same_tokenizer: bool = True, hidden: tuple[int, int] = (32, 32)) -> dict[str, Any]:
    """Two teachers below `root`, as members."""
    members = {}
    for number, (name, width) in enumerate(zip(("alpha", "beta"), hidden, strict=True)):
        words = ["my card fee transfer number is today lost charged sent chip cost money pin price late"]
        more = [] if same_tokenizer or not number else ["zebra"]
        tokenizer = tiny_tokenizer([*words, *map(str, range(150)), *more])
        model = tiny_bert(tokenizer, LABELS, hidden=width, seed=number + 1)
        with torch.no_grad():
            model.classifier.weight.mul_(50)  # so that they are sure of something, and not of the same
        save(model, tokenizer, root / name)
        members[name] = {"model": str(root / name), "licence": "apache-2.0"}
    return members


def write(root: Path, teacher: dict[str, Any], *, topics: bool = False, **changes: Any) -> Path:
    data = write_data(root / "data")
    for file in data.glob("*.jsonl") if topics else ():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        cells = [{**row, "topic": "even" if number % 2 == 0 else "odd"} for number, row in enumerate(rows)]
        file.write_text("\n".join(map(json.dumps, cells)))
    fields = recipe(root, teacher={"kind": "ensemble", **teacher}, training=SHORT, **changes)
    path = root / "recipe.yaml"
    path.write_text(json.dumps(fields))
    return path


KL = [{"kind": "forward_kl", "temperature": 2.0}]
ROUTE = {"by": "topic", "to": {"even": "alpha", "odd": "beta"}}


def said_by(path: Path, name: str, texts: list[str]) -> np.ndarray:
    """Logits of one member, asked as it would be alone."""
    loaded = load_recipe(path)
    task = make_task(loaded.task, tuple(LABELS))
    teacher = load_local(loaded.teacher.alone(name), task)
    rows = Dataset.from_dict({"text": texts, "label": [0] * len(texts)})
    found = score_rows(teacher.model, task, task.encode(rows, teacher.processor), teacher.processor, teacher.resolve(
        Wanted()))  # fmt: skip
    return found["logits"]


def rows_of(root: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "data" / f"{split}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("same", [True, False], ids=["one tokenizer", "two tokenizers"])
def test_classifiers_are_mixed_in_a_store(tmp_path: Path, same: bool) -> None:
    members = classifiers(tmp_path, same_tokenizer=same)
    members["alpha"]["weight"] = 3.0
    path = write(tmp_path, {"members": members}, objectives=KL)
    facts = attar.distill(path, tmp_path / "out")
    texts = [row["text"] for row in rows_of(tmp_path, "test")]
    each = [softmax(said_by(path, name, texts), axis=1) for name in members]
    task = make_task(load_recipe(path).task, tuple(LABELS))
    store = open_store(tmp_path / "out")
    stored = store.read(store.rows(task.content_keys(Dataset.from_dict({"text": texts})))).logits.numpy()
    np.testing.assert_allclose(np.exp(stored), 0.75 * each[0] + 0.25 * each[1], atol=1e-6)
    assert facts.teacher.name == "alpha + beta"
    size = sum(p.numel() for name in members for p in tiny_of(tmp_path / name).parameters())
    assert (facts.teacher.params, facts.teacher.bytes) == (size, 4 * size)
    assert [source.name for source in facts.lineage.sources if source.role == "teacher"] == [
        "alpha + beta", "alpha", "beta",
    ]  # fmt: skip
    assert facts.policy.decision == "allow"
    assert [one.licence for one in facts.policy.members] == ["apache-2.0", "apache-2.0"]
    validation = facts.quality.validation
    assert {"teacher", "teacher/alpha", "teacher/beta"} <= set(validation)
    assert facts.teacher.note is not None
    assert f"alpha {validation['teacher/alpha']:.3f}" in facts.teacher.note
    card = (tmp_path / "out" / "student" / "README.md").read_text()
    assert card.count("One of the teachers") == 2

    again = attar.distill(path, tmp_path / "out")
    assert all(stage.cached for stage in again.stages)
    changed = json.loads(path.read_text())
    changed["teacher"]["members"]["alpha"]["weight"] = 1.0
    path.write_text(json.dumps(changed))
    other = attar.distill(path, tmp_path / "out")
    assert other.signals.key != facts.signals.key


def tiny_of(folder: Path) -> torch.nn.Module:
    return BertForSequenceClassification.from_pretrained(folder)


def test_each_row_has_its_own_classifier(tmp_path: Path) -> None:
    members = classifiers(tmp_path)
    path = write(tmp_path, {"members": members, "route": ROUTE}, topics=True,
                 objectives=[*KL, {"kind": "hidden", "weight": 0.5}])  # fmt: skip
    facts = attar.distill(path, tmp_path / "out")
    assert [one.name for one in facts.evaluation.slices] == ["even", "odd"]
    rows = rows_of(tmp_path, "test")
    loaded = load_recipe(path)
    task = make_task(loaded.task, tuple(LABELS))
    data = Dataset.from_dict({"text": [row["text"] for row in rows], "slice": [row["topic"] for row in rows]})
    store = open_store(tmp_path / "out")
    stored = store.read(store.rows(routing_of(loaded.teacher).keys(task.content_keys(data), data))).logits.numpy()
    each = {name: said_by(path, name, data["text"]) for name in members}
    wanted = np.stack([each[ROUTE["to"][row["topic"]]][number] for number, row in enumerate(rows)])
    np.testing.assert_allclose(stored, wanted, atol=1e-6)


def test_live_and_stored_classifiers_teach_the_same(tmp_path: Path) -> None:
    losses = {}
    for mode in ("live", "store"):
        root = tmp_path / mode
        members = classifiers(root)
        for how, more in (("mixed", {}), ("routed", {"route": ROUTE})):
            path = write(root, {"members": members, "signals": mode, **more}, topics=True, objectives=KL)
            facts = attar.distill(path, root / how)
            assert facts.signals.mode == mode
            losses[mode, how] = [point["loss"] for point in facts.training["student"].curve if "loss" in point]
    for how in ("mixed", "routed"):
        np.testing.assert_allclose(losses["live", how], losses["store", how], rtol=1e-3, atol=1e-6)
    assert not np.allclose(losses["live", "mixed"], losses["live", "routed"], rtol=1e-3)


def test_each_member_is_fitted_by_itself(tmp_path: Path) -> None:
    members = classifiers(tmp_path)
    members["alpha"] |= {"fit": "full", "fitting": {"epochs": 1, "batch_size": 16}}
    members["beta"] |= {"fit": "probe"}
    path = write(tmp_path, {"members": members}, objectives=KL)
    facts = attar.distill(path, tmp_path / "out")
    assert {"teacher/alpha", "teacher/beta"} <= {stage.name for stage in facts.stages}
    assert (tmp_path / "out" / "store" / "teachers" / "alpha" / "teacher.json").is_file()
    again = attar.distill(path, tmp_path / "out")
    assert all(stage.cached for stage in again.stages)


def test_a_row_without_a_teacher_is_told(tmp_path: Path) -> None:
    route = {"by": "topic", "to": {"even": "alpha"}, "otherwise": "beta"}
    path = write(tmp_path, {"members": classifiers(tmp_path), "route": route}, topics=True, objectives=KL)
    assert attar.distill(path, tmp_path / "out").status == "complete"
    narrow = {"by": "topic", "to": {"even": "alpha", "uneven": "beta"}}
    path = write(tmp_path, {"members": classifiers(tmp_path), "route": narrow}, topics=True, objectives=KL)
    with pytest.raises(PlanError, match=r'no teacher is named: "odd"'):
        attar.distill(path, tmp_path / "out")


def test_unlabelled_rows_without_the_column_need_another_teacher(tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text("\n".join(json.dumps({"text": f"late money {n}"}) for n in range(8)))
    data = {
        "source": str(tmp_path / "data"),
        "transfer": [{"kind": "unlabelled", "source": str(tmp_path / "more.jsonl")}],
    }
    path = write(tmp_path, {"members": classifiers(tmp_path), "route": ROUTE}, topics=True, objectives=KL, data=data)
    with pytest.raises(DataError, match=r'no teacher is named for what stands in column "topic".*otherwise'):
        attar.distill(path, tmp_path / "out")


def language(root: Path, *, topics: bool = False, seeds: tuple[int, ...] = (0, 4), **teacher: Any) -> Path:
    """A recipe of a language model with several teachers; `teacher` adds to its section."""
    sections = ("objectives", "task", "training", "student", "rollouts")
    changes = {name: teacher.pop(name) for name in sections if name in teacher}
    training = {"max_steps": 4, "batch_size": 8, "learning_rate": 0.01, "control": False, "evaluations": 1}
    path = make_language(root, **{"training": training, **changes})
    tokenizer = tiny_bpe()
    members = {}
    for number, seed in enumerate(seeds):
        name = ("alpha", "beta")[number]
        save_language_model(root / name, tiny_llama(tokenizer, seed=seed), tokenizer)
        members[name] = {"model": str(root / name), "licence": "mit"}
    for file in (root / "rows").glob("*.jsonl") if topics else ():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        cells = [{**row, "topic": "even" if number % 2 == 0 else "odd"} for number, row in enumerate(rows)]
        file.write_text("\n".join(map(json.dumps, cells)))
    fields = json.loads(path.read_text()) | {"teacher": {"kind": "ensemble", "members": members, **teacher}}
    path.write_text(json.dumps(fields))
    return path


@pytest.mark.parametrize("routed", [False, True], ids=["mixed", "routed"])
def test_language_models_teach_live_and_from_a_store(tmp_path: Path, routed: bool) -> None:
    more = {"route": ROUTE} if routed else {}
    losses, facts = {}, {}
    for mode, targets in (("live", {}), ("store", {"targets": {"kind": "top_k", "k": 300}})):
        kind = {"kind": "forward_kl"} if mode == "live" else {"kind": "sparse_kl", "k": 300}
        path = language(tmp_path / mode, topics=routed, signals=mode, objectives=[kind], **more, **targets)
        facts[mode] = attar.distill(path, tmp_path / mode / "out")
        losses[mode] = [point["loss"] for point in facts[mode].training["student"].curve if "loss" in point]
    np.testing.assert_allclose(losses["store"], losses["live"], rtol=0.03)
    live = facts["live"]
    assert live.evaluation.kl_to_teacher is not None
    assert live.quality.teacher is not None
    assert live.teacher.name == "alpha + beta"
    again = attar.distill(tmp_path / "store" / "recipe.yaml", tmp_path / "store" / "out")
    assert all(stage.cached for stage in again.stages)


def test_one_teacher_twice_teaches_as_it_does_alone(tmp_path: Path) -> None:
    path = language(tmp_path / "two", seeds=(3, 3), signals="live")
    two = attar.distill(path, tmp_path / "two" / "out")
    fields = json.loads(path.read_text())
    fields["teacher"] = {"kind": "local", "model": str(tmp_path / "two" / "beta"), "licence": "mit"}
    path.write_text(json.dumps(fields))
    one = attar.distill(path, tmp_path / "one")
    curves = [[point["loss"] for point in run.training["student"].curve if "loss" in point] for run in (one, two)]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)
    assert one.quality.teacher == pytest.approx(two.quality.teacher, rel=1e-5)


def test_routed_language_models_write_and_show_their_states(tmp_path: Path) -> None:
    task = {"kind": "causal_lm", "prompt": "prompt", "max_length": 32, "metric": "exact_match",
            "generation": {"max_tokens": 8}}  # fmt: skip
    path = language(
        tmp_path, topics=True, route=ROUTE, signals="live", task=task,
        objectives=[{"kind": "forward_kl"}, {"kind": "hidden", "layers": "last"}],
    )  # fmt: skip
    facts = attar.distill(path, tmp_path / "out")
    assert facts.quality.metric == "exact_match"
    assert facts.training["student"].layers["hidden"].pairs == [(1, 3)]


def test_a_store_of_several_is_labelled_alone(tmp_path: Path) -> None:
    path = write(tmp_path, {"members": classifiers(tmp_path)}, objectives=KL)
    folder = label_only(load_recipe(path), tmp_path / "out")
    bert = {
        "model_type": "bert", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    teacher = {"kind": "stored", "path": str(folder), "licence": "apache-2.0"}
    student = {"kind": "from_config", "config": bert}
    fields = {**json.loads(path.read_text()), "teacher": teacher, "student": student}
    path.write_text(json.dumps(fields))
    facts = attar.distill(path, tmp_path / "other")
    assert facts.signals.key == folder.name


def test_a_store_that_needs_its_teachers_is_refused_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path, {"members": classifiers(tmp_path), "route": ROUTE}, topics=True, objectives=KL)
    bert = {"kind": "from_config", "config": {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2}}
    for file, told, change in (
        (path, 'its rows are routed by "topic"', {"student": bert}),
        (language(tmp_path / "lm", signals="store"), "they judge the student, too", {}),
    ):
        folder = label_only(load_recipe(file), file.parent / "out")
        teacher = {"kind": "stored", "path": str(folder), "licence": "mit"}
        file.write_text(json.dumps({**json.loads(file.read_text()), "teacher": teacher, **change}))
        with pytest.raises(PlanError) as raised:
            attar.distill(file, tmp_path / "other")
        assert f"several teachers made this store (alpha, beta), and {told}" in str(raised.value)


@pytest.mark.parametrize("routed", [False, True], ids=["mixed", "routed"])
def test_what_the_student_writes_is_judged_by_several(tmp_path: Path, routed: bool) -> None:
    more = {"route": ROUTE} if routed else {}
    path = language(
        tmp_path, topics=routed, signals="live", objectives=[{"kind": "reverse_kl"}],
        task={"kind": "causal_lm", "prompt": "prompt", "max_length": 32},
        rollouts={"fraction": 1.0, "cold_start": 0.0, "max_new_tokens": 4}, **more,
    )  # fmt: skip
    facts = attar.distill(path, tmp_path / "out")
    written = facts.training["student"].rollouts
    assert written is not None
    assert written.texts > 0
