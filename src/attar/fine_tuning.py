"""`fit: full` of a language model: it becomes a teacher on the user's own rows, by the trainer that students have.

Only learned tokens count, those of answers; their logits stay lazy. The weights that were best on validation, which is
asked after each epoch, are kept.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from attar.data.splits import Splits
from attar.evaluation.exact_match import watched_match
from attar.evaluation.language import perplexity
from attar.evaluation.tokens import TEACHER, Reader, ask_about_rows
from attar.hashing import hash_value
from attar.known import Known
from attar.objectives.terms.terms import Terms
from attar.ranks import ALONE, Ranks
from attar.recipe.objectives import HardLabelsSpec
from attar.recipe.teacher import FittingSpec, LocalTeacherSpec
from attar.recipe.training import TrainingSpec
from attar.signals import Inside
from attar.students.vocabulary import reduce_vocabulary
from attar.tasks.base import Processor
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences, joined, renumbered, sequence_keys
from attar.teachers.fitted import FittedFacts, save_fitted
from attar.teachers.local import load_local
from attar.teachers.scoring import Progress
from attar.training.rows import TrainingRows
from attar.training.train import train

PHASE = "teacher"


def tune_teacher(
    spec: LocalTeacherSpec,
    task: CausalLM,
    splits: Splits,
    out: Path,
    training: TrainingSpec,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    log: Path | None = None,
    ranks: Ranks = ALONE,
) -> FittedFacts:
    """Train the recipe's teacher on the training split and write it to `out` (see `teachers.fitted` for the layout).

    Of `training` (the student's) device, precision, and what it says of memory and processes count. All of `ranks`
    train, the first writes. The same recipe, data and seed give the same weights on
    one machine; killed, it goes on from its last checkpoint, beside `out`. Raises TeacherError, TrainingError or
    StorageError.
    """
    started = time.monotonic()
    teacher = load_local(spec, task)
    model, processor = teacher.core.requires_grad_(True), teacher.processor
    rows = task.encode(splits.train, processor)
    if spec.fitting.min_count > 1:
        rows = _in_pieces_too(rows, task, splits.train, processor, spec.fitting.min_count)
    held_out = task.encode(splits.validation, processor)
    settings = _settings(spec.fitting, training)
    shaped_by = [
        [spec.fitting.model_dump(mode="json"), settings.precision, task.spec.model_dump(mode="json")],
        [teacher.source.hash, splits.hash],
    ]
    smoothed = HardLabelsSpec(kind="hard_labels", label_smoothing=spec.fitting.label_smoothing)
    terms = Terms([smoothed], problem=task.problem, student=Inside(), teacher=Inside(), seed=spec.fitting.seed)

    def evaluate(student: nn.Module) -> float:
        if task.metric == "exact_match":
            return watched_match(student, processor, task, splits.validation, device=device)
        reader = Reader(student, held_out, processor)
        return -perplexity(ask_about_rows({}, reader, task, len(splits.validation), device=device)[TEACHER])

    place = out.with_name(f"{out.name}.checkpoints")
    facts = train(
        model, terms, task, TrainingRows(rows, processor), settings, place,
        key=hash_value(shaped_by), evaluate=evaluate, progress=progress, log=log, phase=PHASE,
    )  # fmt: skip
    validated = [point for point in facts.curve if "validation" in point]
    best = max(point["validation"] for point in validated)
    fitted = FittedFacts(
        fit="full",
        form="model",
        labels=task.labels,
        problem=task.problem,
        pooling=None,
        normalise=False,
        temperature=1.0,
        temperature_folded=False,
        strength=None,
        metric=task.metric,
        validation=best if task.metric == "exact_match" else -best,
        train_rows=len(splits.train),
        validation_rows=len(splits.validation),
        seconds=time.monotonic() - started,
        curve=tuple(
            {name: point[name] for name in ("epoch", "loss", "validation") if name in point} for point in validated
        ),
        seed=spec.fitting.seed,
        source=teacher.source,
    )
    model.cpu()
    if ranks.first:
        save_fitted(model, processor, fitted, out)
        shutil.rmtree(place, ignore_errors=True)
    return fitted


def _in_pieces_too(rows: Sequences, task: CausalLM, train: Dataset, processor: Processor, least: int) -> Sequences:
    """`rows`, and once more those of which a student spells words in pieces that has no token seen less than `least`
    times: a teacher that never read a word so can neither copy it in pieces nor teach that.
    """
    reduced = reduce_vocabulary(processor, task.texts(train, processor), least)
    spelled = renumbered(task.encode(train, reduced.tokenizer), Known(torch.tensor(reduced.kept)))
    seen = set(sequence_keys(rows))
    others = np.array([at for at, key in enumerate(sequence_keys(spelled)) if key not in seen], dtype=np.int64)
    return joined(rows, spelled, others)


def _settings(fitting: FittingSpec, training: TrainingSpec) -> TrainingSpec:
    shared: dict[str, Any] = fitting.model_dump(
        include={"batch_size", "learning_rate", "weight_decay", "warmup", "schedule", "seed"}
    )
    return TrainingSpec(
        epochs=float(fitting.epochs), evaluations=fitting.epochs, checkpoints=fitting.epochs, keep="best",
        device=training.device, precision=training.precision, threads=training.threads, parallel=training.parallel,
        activation_checkpointing=training.activation_checkpointing, **shared,
    )  # fmt: skip
