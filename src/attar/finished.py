"""What can be done with a finished run: ask its student or an exported file, score it elsewhere, export it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image

from attar.answers import answers, probabilities
from attar.data.load import load_split
from attar.errors import DataError, ExportError, RecipeError
from attar.evaluation.generate import complete
from attar.evaluation.harness import run_harness
from attar.evaluation.language import perplexity
from attar.evaluation.metrics import score
from attar.evaluation.predict import predict_logits
from attar.evaluation.tokens import Reader, ask_about_rows
from attar.evaluation.written import right_answers, write_answers
from attar.export.exporter import single_rows
from attar.export.gguf_folder import MODEL as GGUF
from attar.export.onnx_folder import open_onnx
from attar.export.runtimes import open_artifact
from attar.facts import ArtifactFacts, RunFacts
from attar.handover import require_exports
from attar.recipe import Recipe
from attar.recipe.load import load_recipe, recipe_from
from attar.recipe.task import CausalLMSpec, TextClassificationSpec
from attar.report.load import load_run, load_whole, require_artifact
from attar.run import run
from attar.tasks import make_task
from attar.tasks.base import Task
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences
from attar.tasks.tokenizers import ready
from attar.teachers.gguf import read_gguf
from attar.teachers.origin import quiet

_LONGEST = 256
"""Tokens that a language model writes at most."""


def answer(run_folder: Path, inputs: Sequence[str], artifact: str | None = None, top: int = 1) -> list[dict[str, Any]]:
    """The student's answers to texts or image files: {"input", "answers": [{"label", "score"}]}, best first.

    `artifact` names an exported file ("onnx-int8"); None asks the checkpoint. Probabilities are calibrated by the
    temperature that was fitted on validation. For regression one answer with the number as its score. A language
    model's answer is {"text"}: what it writes after the input, its likeliest token each time.
    """
    facts, recipe, task = _open(run_folder)
    if isinstance(task, CausalLM):
        return _written(run_folder, facts, task, inputs, artifact)
    logits = _logits(run_folder, facts, task, _rows(recipe, inputs), artifact)
    if task.problem == "regression":
        return [
            {"input": text, "answers": [{"label": task.labels[0], "score": float(value)}]}
            for text, value in zip(inputs, answers(logits, task.problem), strict=True)
        ]
    calibration = facts.evaluation.calibration
    scores = probabilities(logits / (1.0 if calibration is None else calibration.temperature), task.problem)
    best = np.argsort(-scores, axis=-1)[:, :top]
    return [
        {"input": text, "answers": [{"label": task.labels[i], "score": round(float(row[i]), 4)} for i in order]}
        for text, row, order in zip(inputs, scores, best, strict=True)
    ]


def score_on(run_folder: Path, source: str, split: str | None = None) -> dict[str, Any]:
    """Quality of a run's student on the labelled rows of one split of another source, in the run's columns and labels.

    `split`: None, `test` or else the only one.
    Raises DataError where the split is absent or has no labels.
    """
    _, recipe, task = _open(run_folder)
    spec = recipe.task
    if isinstance(spec, CausalLMSpec):
        rows, _, name = load_split(spec, source, split)
    else:
        rows, labelled, name = load_split(spec.model_copy(update={"labels": task.labels}), source, split)
        if not labelled:
            raise DataError(f"{source}: no label column {spec.label!r}; there is nothing to score against.")
    with quiet():
        model, processor = task.load_model(run_folder / "student"), task.load_processor(run_folder / "student")
    if isinstance(task, CausalLM) and task.metric == "exact_match":
        right = right_answers(rows, write_answers(model, processor, task, rows))
        return {"source": source, "split": name, "metric": task.metric, "value": float(right.mean()), "n": len(rows)}
    encoded = task.encode(rows, processor)
    if isinstance(encoded, Sequences):
        own = ask_about_rows({}, Reader(model, encoded, processor), task, len(rows))["teacher"]
        return {"source": source, "split": name, "metric": task.metric, "value": perplexity(own), "n": len(rows)}
    value = score(task.metric, predict_logits(model, task, encoded, processor), encoded.labels, task.problem)
    return {"source": source, "split": name, "metric": task.metric, "value": value, "n": len(encoded)}


def score_by_harness(run_folder: Path, tasks: Sequence[str], limit: int | None = None) -> dict[str, Any]:
    """What EleutherAI's harness finds of a language model's student, by task. Raises RecipeError for other students."""
    _, recipe, _ = _open(run_folder)
    if not isinstance(recipe.task, CausalLMSpec):
        raise RecipeError(f"--harness: asks language models, but this run's task is {recipe.task.kind}. Use --data.")
    device = recipe.training.device
    return run_harness(run_folder / "student", tasks, limit=limit, device="cpu" if device == "auto" else device)


def export_again(run_folder: Path, kind: str, precision: str, *, say: Callable[[str], None]) -> RunFacts:
    """`add_exports` of one file. Raises ParityError or ExportError where this file is refused."""
    done = add_exports(run_folder, [(kind, precision)], say=say)
    require_exports(done, run_folder, only=[(kind, precision)])
    return done


def add_exports(run_folder: Path, wanted: Sequence[tuple[str, str]], *, say: Callable[[str], None]) -> RunFacts:
    """Add exports, by kind and precision, to a finished run and carry it through: what is done stays, the new files are
    made and measured. A refused one stands in `refused` of what is returned and keeps no other from being made.
    """
    facts = load_run(run_folder)
    recipe = load_recipe(run_folder / "recipe.yaml")
    known = [(one.kind, one.precision) for one in recipe.export]
    added = [{"kind": kind, "precision": precision} for kind, precision in wanted if (kind, precision) not in known]
    if added:
        fields = recipe.model_dump(mode="json")
        fields["export"] += added
        recipe = recipe_from(fields)
    return run(recipe, run_folder, seeds=max(1, len(facts.seeds)), say=say, complain=False)


def _written(
    run_folder: Path, facts: RunFacts, task: CausalLM, inputs: Sequence[str], artifact: str | None
) -> list[dict[str, Any]]:
    made = None if artifact is None else _artifact(facts, artifact)
    folder = run_folder / "student" if made is None else require_artifact(run_folder, made)
    with quiet():
        if made is None:
            model, processor = task.load_model(folder), task.load_processor(folder)
        elif made.kind == "onnx":
            model, processor = open_onnx(folder, made), task.load_processor(folder)
        else:
            model, tokenizer = read_gguf(folder / GGUF)
            processor = ready(tokenizer, made.path, None)
    written = complete(model, processor, [task.prompt_ids(text, processor) for text in inputs], longest=_LONGEST)
    return [{"input": text, "answers": [{"text": one.text}]} for text, one in zip(inputs, written, strict=True)]


def _artifact(facts: RunFacts, artifact: str) -> ArtifactFacts:
    """An exported file by its name. Raises ExportError."""
    made = {f"{a.kind}-{a.precision}": a for a in facts.artifacts}
    if artifact not in made:
        raise ExportError(f"{artifact!r} is not among this run's files: {', '.join(made) or 'none'}.")
    return made[artifact]


def _open(run_folder: Path) -> tuple[RunFacts, Recipe, Task]:
    facts = load_whole(run_folder)
    recipe = load_recipe(run_folder / "recipe.yaml")
    return facts, recipe, make_task(recipe.task, tuple(facts.data.labels))


def _rows(recipe: Recipe, inputs: Sequence[str]) -> Dataset:
    if recipe.task.kind == "image_classification":
        absent = [name for name in inputs if not Path(name).is_file()]
        if absent:
            raise DataError(f"{absent[0]}: no such image file.")
        return Dataset.from_dict({"image": list(inputs)}).cast_column("image", Image())
    if not isinstance(recipe.task, TextClassificationSpec) or recipe.task.text_pair is None:
        return Dataset.from_dict({"text": list(inputs)})
    pairs = [line.split("\t") for line in inputs]
    if any(len(pair) != 2 for pair in pairs):
        raise RecipeError("this student reads pairs: give the two texts with a tab between them.")
    return Dataset.from_dict({"text": [p[0] for p in pairs], "text_pair": [p[1] for p in pairs]})


def _logits(run_folder: Path, facts: RunFacts, task: Task, rows: Dataset, artifact: str | None) -> np.ndarray:
    if artifact is None:
        with quiet():
            model, processor = task.load_model(run_folder / "student"), task.load_processor(run_folder / "student")
        return predict_logits(model, task, task.encode(rows, processor), processor)
    made = _artifact(facts, artifact)
    folder = require_artifact(run_folder, made)
    processor = task.load_processor(folder)
    return open_artifact(made.kind, folder).logits(single_rows(task, task.encode(rows, processor), processor))
