"""Tiny students beside live teachers of another depth and width, for objectives on what models hold inside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from attar.facts import TrainingFacts
from attar.objectives.terms.terms import Terms
from attar.recipe.task import ImageClassificationSpec, TextClassificationSpec
from attar.recipe.training import TrainingSpec
from attar.signals import look_inside
from attar.tasks import make_task
from attar.tasks.base import Encoded, Task
from attar.training.rows import LiveTeacher, TrainingRows
from attar.training.train import train
from tiny import tiny_bert, tiny_image_model, tiny_image_processor, tiny_images, tiny_tokenizer

LABELS = ("dark", "light")
ROWS = 24


@dataclass(frozen=True)
class Scene:
    """Rows of one task, and how its models are made."""

    task: Task
    processor: Any
    encoded: Encoded
    kind: str

    def student(self) -> nn.Module:
        if self.kind == "text":
            return tiny_bert(self.processor, LABELS, hidden=16, layers=2, seed=1)
        return tiny_image_model(LABELS, self.kind, image_size=16, hidden=8, layers=2, seed=1)

    def teacher(self) -> nn.Module:
        if self.kind == "text":
            return tiny_bert(self.processor, LABELS, hidden=32, layers=4, seed=2)
        return tiny_image_model(LABELS, self.kind, image_size=16, hidden=16, layers=3, seed=2)

    def batch(self, rows: int = ROWS) -> dict[str, Tensor]:
        return self.task.batch(self.encoded, range(rows), self.processor)

    def terms(self, *specs: Any, **options: Any) -> Terms:
        student, teacher = (look_inside(model, self.batch(2)) for model in (self.student(), self.teacher()))
        return Terms(specs, problem="single_label", student=student, teacher=teacher, seed=0, **options)

    def fit(
        self, out: Path, terms: Terms, model: nn.Module | None = None, **changes: Any
    ) -> tuple[TrainingFacts, dict[str, Tensor]]:
        """Train for 12 steps in 3 epochs, and give back the facts and all final weights."""
        options = {name: changes.pop(name) for name in ("evaluate", "key") if name in changes}
        settings = {"batch_size": 6, "epochs": 3.0, "device": "cpu", "checkpoints": 3, "learning_rate": 0.01, **changes}
        model = model or self.student()
        live = LiveTeacher(self.teacher(), self.encoded, self.processor, terms.wanted_teacher)
        rows = TrainingRows(self.encoded, self.processor, live=live)
        facts = train(model, terms, self.task, rows, TrainingSpec(**settings), out, **{"key": "k", **options})
        return facts, {**model.state_dict(), **{f"terms.{n}": p for n, p in terms.state_dict().items()}}


@cache
def scene(kind: str) -> Scene:
    """`text`, or images for `resnet` or `vit`."""
    labels = [0, 1] * (ROWS // 2)
    if kind == "text":
        texts = [f"the {LABELS[k]} side of {'a house in ' * (i % 3)}town {i}" for i, k in enumerate(labels)]
        task = make_task(TextClassificationSpec(kind="text_classification"), LABELS)
        processor, rows = tiny_tokenizer(texts), Dataset.from_dict({"text": texts, "label": labels})
    else:
        task = make_task(ImageClassificationSpec(kind="image_classification", image_size=16), LABELS)
        processor = tiny_image_processor(16)
        rows = Dataset.from_dict({"image": tiny_images(labels, 16), "label": labels})
    torch.manual_seed(0)
    return Scene(task, processor, task.encode(rows, processor), kind)
