"""Recipes around a data section, and the data stage run on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from attar.data.load import load_data
from attar.data.splits import Splits
from attar.recipe import Recipe

Load = Callable[..., Splits]


@pytest.fixture
def load() -> Load:
    """`load(data, task, given)`: the splits of a recipe with these sections; `data` may be a bare source."""

    def run(data: Any = "python", task: dict[str, Any] | None = None, given: Any = None) -> Splits:
        return load_data(recipe(data, task), given)

    return run


def recipe(data: Any, task: dict[str, Any] | None = None) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "test",
            "task": {"kind": "text_classification", **(task or {})},
            "teacher": {"kind": "local", "model": "teacher"},
            "data": data if isinstance(data, dict) else {"source": str(data)},
            "student": {"kind": "from_teacher", "layers": 1},
            "objectives": [{"kind": "forward_kl"}],
        },
        strict=False,
    )
