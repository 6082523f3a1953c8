"""Tasks made from plain dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from datasets import Dataset
from pydantic import TypeAdapter

from attar.recipe.task import TaskSpec
from attar.tasks import Task, make_task

Make = Callable[..., Task]


@pytest.fixture
def make() -> Make:
    """`make(labels, **spec)`: a text task, or the one of `kind`."""

    def run(labels: tuple[str, ...] = ("no", "yes"), **spec: Any) -> Task:
        checked = TypeAdapter(TaskSpec).validate_python({"kind": "text_classification", **spec}, strict=False)
        return make_task(checked, labels)

    return run


@pytest.fixture
def rows() -> Dataset:
    """Twelve texts of different lengths, with labels 0 and 1."""
    texts = [" ".join(f"word{(i * 7 + j) % 13}" for j in range(1 + 3 * (i % 5))) for i in range(12)]
    return Dataset.from_dict({"text": texts, "label": [0, 1] * 6})
