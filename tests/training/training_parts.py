"""A tiny training: text rows, a BERT student, stored signals drawn from a seed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tiny import tiny_bert, tiny_tokenizer
from torch import nn

from attar.facts import TrainingFacts
from attar.objectives.terms import Terms
from attar.recipe.objectives import ForwardKLSpec, HardLabelsSpec
from attar.recipe.task import TextClassificationSpec
from attar.recipe.training import TrainingSpec
from attar.signals import Signals
from attar.tasks import make_task
from attar.training.rows import TrainingRows
from attar.training.train import train

LABELS = ("a", "b", "c")
TASK = make_task(TextClassificationSpec(kind="text_classification", max_length=32), LABELS)
TEXTS = [" ".join(["word", f"thing{i % 5}", *["more"] * (i % 9), f"end{i % 3}"]) for i in range(60)]
TOKENIZER = tiny_tokenizer(TEXTS)
ROWS = Dataset.from_dict({"text": TEXTS, "label": [i % 3 for i in range(60)], "origin": ["train"] * 60})
ENCODED = TASK.encode(ROWS, TOKENIZER)
FORWARD_KL = ForwardKLSpec(kind="forward_kl", temperature=2.0)
HARD = HardLabelsSpec(kind="hard_labels")


class Drawn:
    """Logits of every row, drawn once."""

    def __init__(self) -> None:
        self.logits = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)) * 3

    def read(self, rows: np.ndarray) -> Signals:
        return Signals(logits=self.logits[torch.from_numpy(rows)])


def student(dropout: float = 0.0) -> nn.Module:
    """A fresh student, the same each time."""
    model = tiny_bert(TOKENIZER, LABELS, hidden=16, layers=1)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model


def terms(*specs: Any) -> Terms:
    """Objectives on logits and labels alone."""
    return Terms(
        specs, problem="single_label", student_widths={}, teacher_widths={}, student_layers=0, teacher_layers=0, seed=0
    )


def run(
    out: Path,
    *,
    model: nn.Module | None = None,
    specs: Sequence[Any] = (FORWARD_KL, HARD),
    evaluate: Callable[[nn.Module], float] | None = None,
    key: str = "key",
    log: Path | None = None,
    rows: TrainingRows | None = None,
    **spec: Any,
) -> tuple[nn.Module, TrainingFacts]:
    """Train a tiny student; keywords are fields of `training`."""
    model = student() if model is None else model
    facts = train(
        model,
        terms(*specs),
        TASK,
        rows or TrainingRows(ENCODED, TOKENIZER, signals=Drawn()),
        TrainingSpec(**{"epochs": 3.0, "batch_size": 8, "device": "cpu", **spec}),
        out,
        key=key,
        evaluate=evaluate,
        log=log,
    )
    return model, facts


if __name__ == "__main__":  # a training that a test kills: out folder, step after which it stops for good
    import os
    import signal

    seen = 0

    def die(_: nn.Module) -> float:
        global seen
        seen += 1
        if seen == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return float(seen)

    torch.set_num_threads(1)
    run(Path(sys.argv[1]), model=student(0.2), evaluate=die, checkpoints=6, evaluations=12, token_dropout=0.2)
