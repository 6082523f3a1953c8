"""Rows to try on the page: some of the test split, and what the teacher says of them where a copy is made."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from datasets import Dataset
from pydantic import Field

from attar.data.load import load_data
from attar.errors import AttarError
from attar.facts import Facts, RunFacts
from attar.page.rows import Asked, Said
from attar.page.runs import RECIPE
from attar.recipe import Recipe
from attar.recipe.load import load_recipe
from attar.recipe.task import CausalLMSpec
from attar.report.load import load_run

COUNT = 10
_PIXELS = 256
_LONGEST = 1000


class Answering(Protocol):
    """Whoever answers a row as the teacher does."""

    def answer(self, row: Asked) -> Said:
        """What the teacher says of a row."""
        ...


class Sample(Facts):
    """One row to try."""

    row: Asked
    truth: str | None
    teacher: Said | None = None


class Samples(Facts):
    """`samples.json` of a run."""

    rows: list[Sample]
    note: str | None = Field(default=None, description="Why there are none.")


def samples_of(folder: Path, teacher: Answering | None = None) -> Samples:
    """Some rows of the test split, evenly spread over the labels; `teacher` answers each.

    Where the data is not on this machine any more, the rows that the record shows; none where the recipe keeps its
    rows private (`report.examples: false`). Raises AttarError where the teacher cannot answer.
    """
    facts, recipe = load_run(folder), load_recipe(folder / RECIPE)
    if not recipe.report.examples:
        return Samples(rows=[], note="the recipe keeps its rows private (report.examples: false)")
    if isinstance(recipe.task, CausalLMSpec):
        return Samples(rows=[], note="the page runs classifiers")
    try:
        # Transfer rows are many and slow to make, and none of them is shown.
        data = recipe.data.model_copy(update={"transfer": ()})
        rows = _test_rows(load_data(recipe.model_copy(update={"data": data})).test, recipe, facts.data.labels)
    except AttarError:
        rows = _recorded(facts)
    if teacher is not None:
        rows = [one.model_copy(update={"teacher": teacher.answer(one.row)}) for one in rows]
    return Samples(rows=rows, note=None if rows else "the data is not on this machine, and the record shows no rows")


def _test_rows(test: Dataset, recipe: Recipe, labels: list[str]) -> list[Sample]:
    made = list[Sample]()
    for number in _spread(test):
        row = test[number]
        label = row["label"]
        truth = labels[label] if isinstance(label, int) and label >= 0 else None
        if recipe.task.kind == "image_classification":
            made.append(Sample(row=Asked(image=_png(row["image"])), truth=truth))
        else:
            made.append(Sample(row=Asked(text=row["text"][:_LONGEST], pair=row.get("text_pair")), truth=truth))
    return made


def _spread(test: Dataset) -> list[int]:
    """Up to COUNT row numbers: one of each of some labels, evenly spread, or evenly spread rows where none is known."""
    first: dict[int, int] = {}
    for number, label in enumerate(test["label"]):
        if isinstance(label, int) and label >= 0:
            first.setdefault(label, number)
    chosen = [first[label] for label in sorted(first)] or list(range(len(test)))
    places = np.linspace(0, len(chosen) - 1, min(COUNT, len(chosen))).round().astype(int)
    return [chosen[place] for place in np.unique(places)]


def _recorded(facts: RunFacts) -> list[Sample]:
    """Rows of the record. It holds a pair as one text, which cannot be taken apart: then there are none."""
    task = facts.recipe.get("task")
    if isinstance(task, dict) and task.get("text_pair") is not None:
        return []
    shown = facts.evaluation.examples[:COUNT]
    return [Sample(row=Asked(text=one.text, image=one.image), truth=one.truth) for one in shown]


def _png(image: Any) -> str:
    """A data: URL; images of more than 256 pixels a side are made smaller, for both models alike."""
    shown = image.convert("RGB")
    shown.thumbnail((_PIXELS, _PIXELS))
    stream = io.BytesIO()
    shown.save(stream, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
