"""Transfer rows: more inputs for the teacher to label, made from the training rows or read from a source without
labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never, cast

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from PIL import Image

from attar.data.augment_image import augment_images
from attar.data.augment_text import augment_texts
from attar.data.columns import Rows, canonical, column, read_prompts, read_rows, text_rows
from attar.data.cutting import draw
from attar.data.images import as_png, to_rgb
from attar.data.labels import NO_LABEL, no_labels, problem_of
from attar.data.overlap import outside, text_key
from attar.data.sources import read_source
from attar.errors import DataError
from attar.facts import SourceFacts
from attar.recipe import Recipe
from attar.recipe.data import AugmentImageSpec, AugmentTextSpec, DataSpec, UnlabelledSpec
from attar.recipe.nearest import did_you_mean, listed
from attar.recipe.task import CausalLMSpec, ImageClassificationSpec, TaskSpec, TextClassificationSpec


def transfer_rows(
    recipe: Recipe, rows: Mapping[str, Rows], width: int, notes: list[str]
) -> tuple[Rows | None, int, tuple[SourceFacts, ...]]:
    """All transfer rows in the order of the recipe (None where there are none), how many were taken out because they
    stand in test or validation, and where unlabelled ones came from. `width` counts the labels. Raises DataError.
    """
    task, parts, removed, sources = recipe.row_task, list[Rows](), 0, list[SourceFacts]()
    held_out = {key for role in ("test", "validation") for key in rows[role].keys}
    avoid = held_out | set(rows["train"].keys)
    for number, spec in enumerate(recipe.data.transfer):
        place = f"data.transfer[{number}]"
        match spec:
            case AugmentTextSpec():
                part = _texts(spec, task, rows["train"], avoid, place, notes)
            case AugmentImageSpec():
                part = _images(spec, task, rows["train"], avoid, place, notes)
            case UnlabelledSpec():
                found = _unlabelled(spec, task, recipe.data, width, place)
                closed = _prompts(rows) if _answers_prompts(task) else held_out
                part = found.take(outside(found.keys, closed))
                if len(part) < len(found):
                    where = "train, test or validation" if _answers_prompts(task) else "test or validation"
                    notes.append(f"{len(found) - len(part)} rows of {place} that stand in {where} were taken out.")
                    removed += 0 if _answers_prompts(task) else len(found) - len(part)
                part = part if spec.rows is None else part.take(draw(np.zeros(len(part)), spec.rows, recipe.data.seed))
                sources.append(SourceFacts(role="transfer", name=spec.source, revision=spec.revision, hash=part.hash()))
            case _:
                assert_never(spec)
        avoid = avoid | set(part.keys)
        parts.append(part)
    parts = [part for part in parts if len(part)]
    return (_joined(parts) if parts else None), removed, tuple(sources)


def _joined(parts: list[Rows]) -> Rows:
    return Rows(
        dataset=concatenate_datasets([part.dataset for part in parts]) if len(parts) > 1 else parts[0].dataset,
        labels=np.concatenate([part.labels for part in parts]),
        keys=[key for part in parts for key in part.keys],
    )


def _texts(spec: AugmentTextSpec, task: TaskSpec, train: Rows, avoid: set[str], place: str, notes: list[str]) -> Rows:
    if not isinstance(task, TextClassificationSpec):
        raise DataError(f"{place}: augment_text needs texts, the task is {task.kind}. Use augment_image.")
    texts = cast("list[str]", column(train.dataset, "text"))
    pairs = cast("list[str]", column(train.dataset, "text_pair")) if task.text_pair is not None else None
    labels = train.labels
    classes = labels if labels.ndim == 1 and labels.dtype == np.int64 and bool((labels != NO_LABEL).any()) else None
    made = augment_texts(texts, pairs, classes, spec, avoid=avoid, longest=task.max_length)
    _tell(len(made), spec.rows, place, "texts", notes)
    kept = labels[made.sources]
    kept[~made.keeps_label] = NO_LABEL if labels.dtype == np.int64 else np.nan
    return text_rows(made.texts, made.pairs, kept, "augmented", _slices(train, made.sources))


def _images(spec: AugmentImageSpec, task: TaskSpec, train: Rows, avoid: set[str], place: str, notes: list[str]) -> Rows:
    if not isinstance(task, ImageClassificationSpec):
        raise DataError(f"{place}: augment_image needs images, the task is {task.kind}. Use augment_text.")
    made = augment_images(lambda row: pixels(train.dataset, row), len(train), spec, avoid=avoid)
    _tell(len(made.images), spec.rows, place, "images", notes)
    storage = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = [pa.array([{"bytes": as_png(Image.fromarray(image)), "path": None}], type=storage) for image in made.images]
    labels = train.labels[made.sources]
    images = pa.chunked_array(cells, type=storage)
    return Rows(canonical({"image": images}, labels, "augmented", _slices(train, made.sources)), labels, made.keys)


def pixels(dataset: Dataset, row: int) -> np.ndarray:
    """RGB pixels of one canonical image row, uint8 [H, W, 3]."""
    return np.asarray(to_rgb(dataset[row]["image"]))


def _slices(train: Rows, sources: np.ndarray) -> list[str] | None:
    if "slice" not in train.dataset.column_names:
        return None
    slices = cast("list[str]", column(train.dataset, "slice"))
    return [slices[row] for row in sources.tolist()]


def _tell(made: int, wanted: int, place: str, what: str, notes: list[str]) -> None:
    if made < wanted:
        notes.append(f"{place}: {made} {what} made of {wanted} wanted; more different ones did not come out.")


def _unlabelled(spec: UnlabelledSpec, task: TaskSpec, data: DataSpec, width: int, place: str) -> Rows:
    source = read_source(
        spec.source, config=None, revision=spec.revision, task=task, split_names={spec.split, *_names(data)}
    )
    raw = source.splits.get(spec.split)
    if raw is None:
        raise DataError(
            f'{place}: {source.name} has no split "{spec.split}".{did_you_mean(spec.split, source.splits)} '
            f"Splits there: {listed(source.splits)}. Set {place}.split."
        )
    if len(raw) == 0:
        raise DataError(f"{place}: {raw.place} has no rows. Choose another split or source.")
    labels = no_labels(problem_of(task), len(raw), width)
    if isinstance(task, CausalLMSpec) and _answers_prompts(task):
        return read_prompts(raw, task)
    rows = read_rows(raw, task, labels, source.base, "unlabelled")
    return rows if spec.rows is None else rows.take(draw(np.zeros(len(raw)), spec.rows, data.seed))


def _answers_prompts(task: TaskSpec) -> bool:
    """Are unlabelled rows prompts that the teacher answers?"""
    return isinstance(task, CausalLMSpec) and task.prompt is not None


def _prompts(rows: Mapping[str, Rows]) -> set[str]:
    """Keys of all prompts that the data answers itself."""
    return {text_key(prompt) for part in rows.values() for prompt in cast("list[str]", column(part.dataset, "prompt"))}


def _names(data: DataSpec) -> set[str]:
    names = (data.splits.train, data.splits.validation, data.splits.test, "validation")
    return {name for name in names if name is not None}
