"""Whole runs of a specialist at tiny size: a Llama of kilobytes is fine-tuned to write JSON, and teaches another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

import attar
from attar.data.load import load_data
from attar.errors import PlanError, RecipeError
from attar.evaluation.generate import complete
from attar.export.gguf import write_gguf
from attar.fine_tuning import tune_teacher
from attar.finished import answer, score_on
from attar.recipe import Recipe
from attar.recipe.load import load_recipe
from attar.tasks.causal_lm import CausalLM
from attar.teacher_writes import write_as_taught
from attar.training.callbacks import Bar
from attar.training.collate import Collator
from attar.training.rows import Batch, TrainingRows
from tiny_language import save_language_model, tiny_bpe, tiny_llama

FITTING = {"epochs": 12, "batch_size": 8, "learning_rate": 0.01}
TASK = {
    "kind": "causal_lm", "prompt": "text", "json_fields": {"does": "label", "slots": {"spans": "spans"}},
    "metric": "exact_match", "max_length": 48, "generation": {"max_tokens": 30, "watched_rows": 4},
}  # fmt: skip


def write_rows(folder: Path) -> list[str]:
    """Sentences with their pieces; returns all texts."""
    rows = []
    for beast, does, thing in product(("cat", "dog", "owl"), ("sees", "wants", "likes"), ("moon", "tree", "sea")):
        pieces = [[beast, "who"], [f" {does} the ", None], [thing, "what"]]
        rows.append({"text": f"{beast} {does} the {thing}", "label": does, "spans": json.dumps(pieces)})
    Random(0).shuffle(rows)
    folder.mkdir()
    for split, part in (("train", rows[:21]), ("test", rows[21:])):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)), encoding="utf-8")
    return [row["text"] for row in rows] + ['{"does":"sees","slots":{"who":"cat","what":"moon"}}'] * 20


def make(root: Path, *, gguf: bool = False, **changes: Any) -> Path:
    """Data, teacher and recipe below `root`; returns the recipe's path."""
    tokenizer = tiny_bpe(write_rows(root / "rows"), size=330)
    folder = save_language_model(root / "teacher", tiny_llama(tokenizer, layers=2), tokenizer)
    if gguf:
        write_gguf(tiny_llama(tokenizer, layers=2), tokenizer, folder / "model.gguf", precision="f16", name="tiny")
    fields = {
        "name": "tiny-specialist",
        "task": TASK,
        "teacher": {
            "kind": "local", "model": str(folder / "model.gguf" if gguf else folder), "licence": "mit", "fit": "full",
            "fitting": FITTING,
        },
        "data": {"source": str(root / "rows")},
        "student": {"kind": "from_teacher", "layers": 1},
        "objectives": [{"kind": "forward_kl"}],
        "training": {"epochs": 10, "batch_size": 8, "learning_rate": 0.01, "evaluations": 2},
        "report": {"bootstrap": 100, "latency": False},
        **changes,
    }  # fmt: skip
    path = root / "recipe.yaml"
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path


def test_a_specialist_is_fine_tuned_distilled_and_judged_by_what_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, gguf=True, export=[{"kind": "gguf", "precision": "q8_0"}])
    facts = attar.distill(path, tmp_path / "out")
    fitted = json.loads((tmp_path / "out" / "store" / "teacher" / "teacher.json").read_text())
    assert (fitted["fit"], fitted["form"], fitted["metric"], fitted["train_rows"]) == (
        "full",
        "model",
        "exact_match",
        19,
    )
    assert [point["epoch"] for point in fitted["curve"]] == list(range(1, 13))
    assert fitted["curve"][-1]["loss"] < 0.5 * fitted["curve"][0]["loss"]
    assert fitted["validation"] == max(point["validation"] for point in fitted["curve"])
    assert facts.teacher.bytes == 4 * facts.teacher.params
    quality = facts.quality
    assert quality.metric == "exact_match"
    assert set(facts.evaluation.written) == set(facts.evaluation.perplexity) == {"teacher", "student", "control"}
    assert facts.evaluation.perplexity["teacher"] < 3
    assert set(facts.evaluation.written["teacher"].f1) == {"does", "slots"}
    rows = [json.loads(line) for line in (tmp_path / "rows" / "test.jsonl").read_text().splitlines()]
    right = 0
    for row in rows:  # the student's folder, asked anew, one prompt at a time
        (told,) = answer(tmp_path / "out", [row["text"]])
        pieces = json.loads(row["spans"])
        wanted = {"does": row["label"], "slots": {name: piece for piece, name in pieces if name}}
        try:
            right += json.loads(told["answers"][0]["text"]) == wanted
        except ValueError:
            pass
    assert quality.student == pytest.approx(right / len(rows))
    elsewhere = score_on(tmp_path / "out", str(tmp_path / "rows"))
    assert (elsewhere["metric"], elsewhere["value"]) == ("exact_match", pytest.approx(right / len(rows)))
    (file,) = facts.artifacts
    assert file.quality is not None
    assert 0 <= file.quality <= 1
    assert file.quality_interval is not None
    report = (tmp_path / "out" / "report.html").read_text()
    assert "exact match" in report
    assert "Tokens an answer" in report
    assert "exact match" in (tmp_path / "out" / "student" / "README.md").read_text()
    again = attar.distill(path, tmp_path / "out")
    assert all(stage.cached for stage in again.stages if stage.name != "data")
    other = json.loads(path.read_text())
    other["teacher"]["fitting"]["epochs"] = 1
    path.write_text(json.dumps(other))
    asked: list[int] = []
    monkeypatch.setattr(
        "attar.answer_judge.write_as_taught", lambda *of: asked.append(len(of[2])) or write_as_taught(*of)
    )
    changed = {stage.name: stage for stage in attar.distill(path, tmp_path / "out", seeds=2).stages}
    assert len(asked) == 2, "the teacher writes once for all seeds, to validation and to test"
    assert not changed["0/student"].cached, "another fine-tuning is another teacher"
    assert changed["0/student"].key != next(stage.key for stage in again.stages if stage.name == "0/student")


def fine_tuned(recipe: Recipe, out: Path) -> dict[str, torch.Tensor]:
    task = CausalLM(recipe.task)  # type: ignore[arg-type]
    tune_teacher(recipe.teacher, task, load_data(recipe), out, recipe.training)  # type: ignore[arg-type]
    return load_file(out / "model" / "model.safetensors")


def test_only_answers_are_learned_by_perplexity_too(tmp_path: Path) -> None:
    task = {**TASK, "metric": "perplexity"}
    del task["generation"]
    recipe = load_recipe(make(tmp_path, task=task))
    once = fine_tuned(recipe, tmp_path / "a")
    fitted = json.loads((tmp_path / "a" / "teacher.json").read_text())
    assert fitted["metric"] == "perplexity"
    assert 1 < fitted["validation"] < 5
    again = fine_tuned(recipe, tmp_path / "b")
    assert all(torch.equal(once[name], again[name]) for name in once)
    made = CausalLM(recipe.task)  # type: ignore[arg-type]
    model, tokenizer = made.load_model(tmp_path / "a" / "model"), made.load_processor(tmp_path / "a" / "model")
    (written,) = complete(model, tokenizer, [made.prompt_ids("cat sees the sea", tokenizer)], longest=30)
    assert written.ended
    assert written.text.startswith('{"does":"')


def test_rare_words_are_read_in_pieces_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row that a reduced vocabulary spells otherwise stands twice, the same text both times; the others once."""
    recipe = load_recipe(make(tmp_path))
    seen: list[Any] = []
    monkeypatch.setattr("attar.fine_tuning.train", lambda *given, **_: seen.append(given[3]) or stop())

    def stop() -> None:
        raise KeyboardInterrupt

    for least in (1, 7):
        fitting = recipe.teacher.fitting.model_copy(update={"min_count": least})  # type: ignore[union-attr]
        spec = recipe.teacher.model_copy(update={"fitting": fitting})
        with pytest.raises(KeyboardInterrupt):
            fine_tuned(recipe.model_copy(update={"teacher": spec}), tmp_path / str(least))
    once, twice = (one.student for one in seen)
    tokenizer = seen[0].processor
    text = [[tokenizer.decode(ids) for ids in one.inputs["input_ids"]] for one in (once, twice)]
    assert len(once) < len(twice) < 2 * len(once)
    assert set(text[0]) == set(text[1])
    assert [text[0][owner] for owner in twice.owners] == text[1]
    assert np.array_equal(twice.labels, [int(learned.sum()) for learned in twice.learned])
    again = np.flatnonzero(np.diff(twice.owners) == 0) + 1
    assert (twice.lengths[again] > twice.lengths[again - 1]).all()


def test_fine_tuning_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    recipe = load_recipe(make(tmp_path))
    whole = fine_tuned(recipe, tmp_path / "whole")
    killed = f"""
import os, signal
from pathlib import Path
from attar.training.callbacks import Bar
from attar.training.collate import Collator
from attar.training.rows import Batch, TrainingRows
def die(self, args, state, control, **_):
    if state.global_step == 20:
        os.kill(os.getpid(), signal.SIGKILL)
Bar.on_step_end = die
from run.test_specialist import fine_tuned, tune_teacher
import run.test_specialist as here
here.tune_teacher = lambda *given: tune_teacher(*given, progress=lambda *_: None)
from attar.recipe.load import load_recipe
fine_tuned(load_recipe(Path({str(tmp_path / "recipe.yaml")!r})), Path({str(tmp_path / "cut")!r}))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", killed], env=environment, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert (tmp_path / "cut.checkpoints").is_dir()
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bar, "on_step_end", lambda self, args, state, control, **_: seen.append(state.global_step))
        task = CausalLM(recipe.task)  # type: ignore[arg-type]
        tune_teacher(
            recipe.teacher, task, load_data(recipe), tmp_path / "cut", recipe.training,  # type: ignore[arg-type]
            progress=lambda *_: None,
        )  # fmt: skip
    assert seen[0] > 10
    resumed = load_file(tmp_path / "cut" / "model" / "model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not (tmp_path / "cut.checkpoints").exists()


def test_the_teacher_answers_prompts_that_nobody_has_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.answered._PART", 4)
    new = [f"{who} {does} the tree" for who in ("fox", "bee", "ant") for does in ("sees", "has")]
    (tmp_path / "more").mkdir()
    cells = [json.dumps({"text": prompt}) for prompt in ["cat sees the  MOON", *new, new[0]]]
    (tmp_path / "more" / "train.jsonl").write_text("\n".join(cells), encoding="utf-8")
    transfer = [{"kind": "unlabelled", "source": str(tmp_path / "more")}]
    path = make(tmp_path, data={"source": str(tmp_path / "rows"), "transfer": transfer})
    fields = json.loads(path.read_text())
    fields["teacher"]["signals"] = "store"
    path.write_text(json.dumps(fields))
    facts = attar.distill(path, tmp_path / "out")
    (folder,) = (tmp_path / "out" / "store" / "answered").iterdir()
    written = [one for file in sorted(folder.iterdir()) for one in json.loads(file.read_text())]
    assert [file.name for file in sorted(folder.iterdir())] == ["000000000.json", "000000004.json"]
    assert len(written) == 7, "a prompt that the data answers is no prompt to answer"
    assert facts.data.rows["transfer"] == sum(ended for _, ended in written)
    assert any(note.startswith("transfer: the teacher answered 7 prompts") for note in facts.data.notes)
    task = CausalLM(load_recipe(path).task)  # type: ignore[arg-type]
    model, tokenizer = task.load_model(tmp_path / "out/store/teacher/model"), task.load_processor(tmp_path / "teacher")
    (said,) = complete(model, tokenizer, [task.prompt_ids(new[0], tokenizer)], longest=30)
    assert [said.text, said.ended] == written[0]
    stages = {stage.name: stage for stage in attar.distill(path, tmp_path / "out").stages}
    assert all(stage.cached for name, stage in stages.items() if name != "data")
    sorted(folder.iterdir())[1].unlink()
    stages = {stage.name: stage for stage in attar.distill(path, tmp_path / "out").stages}
    assert not stages["answered"].cached
    assert stages["0/student"].cached, "the same answers came of it"


def test_what_the_teacher_wrote_is_no_label(tmp_path: Path) -> None:
    task = CausalLM(load_recipe(make(tmp_path)).task)  # type: ignore[arg-type]
    tokenizer = task.load_processor(tmp_path / "teacher")
    rows = Dataset.from_dict({"prompt": ["cat", "dog"], "text": ["{}", "{}"], "origin": ["train", "unlabelled"]})
    encoded = task.encode(rows, tokenizer)
    collate = Collator(
        TrainingRows(encoded, tokenizer), task, seed=0, token_dropout=0, subword_dropout=0, mixup=0, in_place=False
    )
    made = collate(Batch(np.array([1, 0]), 0, 0))
    half = len(made["labels"]) // 2
    assert made["labels"][:half].tolist() == [-100] * half
    assert (made["labels"][half:] >= 0).all()
    assert len(made["positions"]) == 2 * half, "it is told all the same: objectives on the teacher keep it"
    assert task.encode(rows.remove_columns("origin"), tokenizer).taught is None
    alone = Collator(
        TrainingRows(encoded, tokenizer, labels_alone=True),
        task,
        seed=0,
        token_dropout=0,
        subword_dropout=0,
        mixup=0,
        in_place=False,
    )
    read = alone(Batch(np.array([1, 0]), 0, 0))
    assert len(read["inputs"]["input_ids"]) == 1, "the control need not read what it cannot learn from"
    assert torch.equal(read["labels"], made["labels"][half:])
    assert torch.equal(read["rows"], made["rows"][half:])
    assert (alone(Batch(np.array([1]), 0, 1))["labels"] == -100).all(), "a batch of nothing else keeps one"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"json_fields": {"does": "lable"}},
            r'task\.json_fields\.does: .* has no column "lable"\. Did you mean "label"',
        ),
        ({"json_fields": {"s": {"spans": "span"}}}, r'task\.json_fields\.s: .* has no column "span"\.'),
    ],
)
def test_absent_columns_are_told_before_work(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(PlanError, match=told):
        attar.distill(make(tmp_path, task={**TASK, **changes}), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompt": None}, "`json_fields` takes the place of `text`"),
        ({"text": "label"}, "`json_fields` takes the place of `text`"),
        ({"json_fields": None, "prompt": None}, "there are none without `prompt`"),
        ({"metric": "perplexity"}, "nothing is written for perplexity"),
        ({"json_fields": {"a": {"span": "spans"}}}, "there is no such field"),
        ({"json_fields": {}}, "json_fields"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        load_recipe(make(tmp_path, task={**TASK, **changes}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fit": "probe"}, '"probe" fits classifiers'),
        ({"fitting": {"head_learning_rate": 0.1}}, "a language model's head is no new part"),
        ({"pooling": "mean"}, "nothing is pooled"),
        ({"fit": "none", "fitting": {"min_count": 3}}, "only a language model that is fine-tuned"),
        ({"model": None, "config": {"model_type": "llama"}}, "has no tokenizer"),
    ],
)
def test_ways_of_fitting_that_are_for_classifiers_are_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = make(tmp_path)
    fields = json.loads(path.read_text())
    fields["teacher"] |= changes
    path.write_text(json.dumps(fields))
    with pytest.raises(PlanError, match=told):
        attar.distill(path, tmp_path / "out")


def test_a_written_recipe_is_read_back(tmp_path: Path) -> None:
    from attar.recipe.load import dump_recipe

    recipe = load_recipe(make(tmp_path))
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    chats = {"kind": "causal_lm", "messages": "chat"}
    fields = {**json.loads((tmp_path / "recipe.yaml").read_text()), "task": chats}
    (tmp_path / "chats.yaml").write_text(json.dumps(fields))
    loaded = load_recipe(tmp_path / "chats.yaml")
    (tmp_path / "again.yaml").write_text(dump_recipe(loaded))
    assert load_recipe(tmp_path / "again.yaml") == loaded
