"""A tiny text classifier and a tiny convolutional net with their rows, trained a little, for every exporter's tests."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from attar.evaluation.predict import predict_logits
from attar.export.classifier import Exported, export_and_check
from attar.export.exporter import Trained, trace_rows
from attar.recipe.outcome import ClassifierSpec
from attar.recipe.task import ImageClassificationSpec, TextClassificationSpec
from attar.tasks import Task, make_task
from attar.tasks.base import Encoded
from tiny import tiny_bert, tiny_image_model, tiny_image_processor, tiny_images, tiny_tokenizer

LABELS = ("a", "b", "c")


class Case:
    """A model with rows, traced once for all tests."""

    def __init__(self, task: Task, processor: object, rows: Dataset, model: nn.Module) -> None:
        self.task, self.processor, self.model = task, processor, model
        self.rows: Encoded = task.encode(rows, processor)
        self.logits = predict_logits(model, task, self.rows, processor)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.graph = trace_rows(model, task, processor, self.rows, 20)
        self.trained = Trained(model, task, processor, self.rows, temperature=1.5, graphs={20: self.graph})

    def batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        return self.task.batch(self.rows, rows, self.processor)

    def untraced(self) -> Trained:
        return Trained(self.model, self.task, self.processor, self.rows)

    def export(
        self, root: Path, spec: ClassifierSpec, *, trained: Trained | None = None, logits: np.ndarray | None = None
    ) -> Exported:
        out = root / "export" / f"{spec.kind}-{spec.precision}"
        said = self.logits if logits is None else logits
        return export_and_check(
            trained or self.trained, out, spec, parity=self.rows, parity_logits=said, test=self.rows, root=root
        )


def trained_a_little(model: nn.Module, task: Task, encoded: Encoded, processor: object, steps: int) -> None:
    """Enough steps that answers are decided: int8 must not change them."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    inputs, labels = task.batch(encoded, range(len(encoded)), processor), torch.from_numpy(encoded.labels)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(**inputs).logits, labels).backward()
        optimiser.step()
    model.eval()


def text_case() -> Case:
    """A BERT of 3 labels; the longest of 40 texts has 10 tokens."""
    words = {0: "card lost stolen", 1: "transfer late money", 2: "fee charged twice"}
    rng = np.random.default_rng(0)
    labels = [int(i) for i in rng.integers(0, 3, 40)]
    texts = [" ".join(rng.choice(words[i].split(), rng.integers(1, 9))) for i in labels]
    task = make_task(TextClassificationSpec(kind="text_classification", max_length=32), LABELS)
    tokenizer = tiny_tokenizer(texts)
    rows = Dataset.from_dict({"text": texts, "label": labels})
    model = tiny_bert(tokenizer, LABELS)
    trained_a_little(model, task, task.encode(rows, tokenizer), tokenizer, 15)
    return Case(task, tokenizer, rows, model)


def image_case() -> Case:
    """A ResNet of 3 labels with 30 images of 8 x 8 pixels."""
    labels = [i % 3 for i in range(30)]
    task = make_task(ImageClassificationSpec(kind="image_classification", image_size=8), LABELS)
    rows = Dataset.from_dict({"image": tiny_images(labels), "label": labels})
    model = tiny_image_model(LABELS, hidden=32)
    trained_a_little(model, task, task.encode(rows, tiny_image_processor()), tiny_image_processor(), 10)
    return Case(task, tiny_image_processor(), rows, model)
