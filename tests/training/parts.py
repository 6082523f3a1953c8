"""A small text task with a student, stored signals and terms, for the tests of training and their processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from attar.facts import TrainingFacts
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import ForwardKLSpec, HardLabelsSpec, HiddenSpec
from attar.recipe.task import TextClassificationSpec
from attar.recipe.training import TrainingSpec
from attar.signals import HiddenKey, Inside, Signals
from attar.tasks import make_task
from attar.tasks.base import Encoded, Task
from attar.training.rows import TrainingRows
from attar.training.train import train
from tiny import tiny_bert, tiny_tokenizer

LABELS = ("a", "b", "c")
ROWS = 40
TEACHER_WIDTH = 20


@dataclass(frozen=True)
class Reader:
    """Stored signals in memory."""

    logits: torch.Tensor
    hidden: torch.Tensor

    def read(self, rows: np.ndarray) -> Signals:
        return Signals(self.logits[rows], {HiddenKey(2, "mean"): self.hidden[rows]})


@cache
def text_task() -> tuple[Task, Any, Encoded]:
    """The task, a tokenizer, and encoded rows of 3 to 14 words, a quarter of them without label."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice([f"w{i}" for i in range(40)], rng.integers(3, 15))) for _ in range(ROWS)]
    tokenizer = tiny_tokenizer(texts)
    task = make_task(TextClassificationSpec(kind="text_classification"), LABELS)
    labels = np.where(np.arange(ROWS) % 4 == 0, -100, rng.integers(0, 3, ROWS))
    encoded = task.encode(Dataset.from_dict({"text": texts, "label": labels.tolist()}), tokenizer)
    return task, tokenizer, encoded


def reader() -> Reader:
    random = torch.Generator().manual_seed(1)
    return Reader(torch.randn(ROWS, len(LABELS), generator=random), torch.randn(ROWS, TEACHER_WIDTH, generator=random))


def training_rows(**changes: Any) -> TrainingRows:
    _, tokenizer, encoded = text_task()
    return replace(TrainingRows(encoded, tokenizer, reader()), **changes)


def student(*, dropout: float = 0.0) -> nn.Module:
    model = tiny_bert(text_task()[1], LABELS)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = dropout
    return model


def make_terms(*specs: Any, teacher_width: int = TEACHER_WIDTH) -> Terms:
    chosen = specs or (
        ForwardKLSpec(kind="forward_kl", temperature=2.0),
        HiddenSpec(kind="hidden"),
        HardLabelsSpec(kind="hard_labels", weight=0.5),
    )
    return Terms(
        list(chosen),
        problem="single_label",
        student=Inside(dict.fromkeys(range(3), 32)),
        teacher=Inside(dict.fromkeys(range(3), teacher_width)),
        seed=0,
    )


def spec(**changes: Any) -> TrainingSpec:
    return TrainingSpec(**{"batch_size": 8, "epochs": 2.0, "device": "cpu", "evaluations": 4, **changes})


def fit(
    out: Path, training: TrainingSpec, model: nn.Module, rows: TrainingRows | None = None, **changes: Any
) -> tuple[TrainingFacts, dict[str, torch.Tensor]]:
    """Train, and give back the facts and all final weights, projectors included."""
    terms = changes.pop("terms", None) or make_terms()
    terms.to(next(model.parameters()).dtype)
    settings = {"key": "k", **changes}
    facts = train(model, terms, text_task()[0], rows or training_rows(), training, out, **settings)
    return facts, {**model.state_dict(), **{f"terms.{n}": p for n, p in terms.state_dict().items()}}


def same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class Interrupted(nn.Module):
    """The student, with Ctrl-C in a forward pass of training."""

    def __init__(self, call: int | None) -> None:
        super().__init__()
        self.inner, self.call, self.calls = student(dropout=0.1), call, 0

    def forward(self, **inputs: torch.Tensor) -> object:
        self.calls += self.training
        if self.calls == self.call:
            raise KeyboardInterrupt
        return self.inner(**inputs)
