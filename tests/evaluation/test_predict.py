"""Batched logits are those of single rows, in their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn

from attar.evaluation.predict import predict_logits
from attar.recipe.task import ImageClassificationSpec, TextClassificationSpec
from attar.tasks import make_task
from tiny import tiny_bert, tiny_image_model, tiny_image_processor, tiny_images, tiny_tokenizer

LABELS = ("a", "b", "c")
TEXTS = [" ".join(["word", "other", "more"][: 1 + i % 3] * (1 + i % 5)) for i in range(23)]
TASK = make_task(TextClassificationSpec(kind="text_classification", max_length=32), LABELS)
TOKENIZER = tiny_tokenizer(TEXTS)
ROWS = TASK.encode(Dataset.from_dict({"text": TEXTS, "label": [0] * len(TEXTS)}), TOKENIZER)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_batches_change_nothing(batch_tokens: int) -> None:
    model = tiny_bert(TOKENIZER, LABELS).train()
    logits = predict_logits(model, TASK, ROWS, TOKENIZER, batch_tokens=batch_tokens)
    assert model.training
    with torch.inference_mode():
        model.eval()
        alone = [model(**TASK.batch(ROWS, [i], TOKENIZER)).logits[0].numpy() for i in range(len(ROWS))]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, alone, atol=1e-5)


class Watcher(nn.Module):
    """Answers with zeros and remembers the shapes that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input_ids: Tensor, **_: Tensor) -> Tensor:
        self.shapes.append(tuple(input_ids.shape))
        return torch.zeros(len(input_ids), 3)


def test_batches_hold_few_tokens_and_little_padding() -> None:
    watcher = Watcher()
    predict_logits(watcher, TASK, ROWS, TOKENIZER, batch_tokens=40)
    assert all(rows * length <= 40 for rows, length in watcher.shapes)
    assert sum(rows for rows, _ in watcher.shapes) == len(ROWS)
    assert sum(rows * length for rows, length in watcher.shapes) < 1.3 * ROWS.lengths.sum()


def test_images() -> None:
    task = make_task(ImageClassificationSpec(kind="image_classification", image_size=8), LABELS)
    processor = tiny_image_processor()
    rows = task.encode(Dataset.from_dict({"image": tiny_images([0, 1, 2, 1]), "label": [0, 1, 2, 1]}), processor)
    model = tiny_image_model(LABELS)
    logits = predict_logits(model, task, rows, processor)
    with torch.inference_mode():
        expected = model(**task.batch(rows, [0, 1, 2, 3], processor)).logits
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_no_rows_give_no_logits() -> None:
    nothing = TASK.encode(Dataset.from_dict({"text": ["word"], "label": [0]}).select([]), TOKENIZER)
    assert predict_logits(Watcher(), TASK, nothing, TOKENIZER).shape == (0, 3)
