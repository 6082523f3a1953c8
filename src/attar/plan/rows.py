"""The data of a recipe against its task: splits, columns, labels and sizes, as far as they are cheap to see."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, cast

from attar.plan.notes import Notes
from attar.plan.result import DataPlan
from attar.plan.tables import MAX_ROWS, Table, file_splits, folder_splits, image_splits
from attar.recipe import Recipe
from attar.recipe.data import AugmentImageSpec, AugmentTextSpec, SplitsSpec, UnlabelledSpec
from attar.recipe.nearest import did_you_mean, listed, nearest
from attar.recipe.places import Path
from attar.recipe.sources import find_source
from attar.recipe.task import (
    CausalLMSpec,
    ClassificationSpec,
    ImageClassificationSpec,
    TaskSpec,
    TextClassificationSpec,
)
from attar.recipe.teacher import StoredTeacherSpec

_DIGITS_ROWS = {"train": 1438, "test": 359}
_SAMPLE = 20_000
_SHOWN = 8


@dataclass
class RowsFound:
    """The plan's data, and what later checks read of it."""

    plan: DataPlan
    texts: list[str] = field(default_factory=list[str])
    """Training texts (both of a pair joined), at most a sample."""
    whole: bool = True
    """Are `texts` all of the training texts?"""
    tables: dict[str, Table] = field(default_factory=dict[str, Table])

    @property
    def training_rows(self) -> int | None:
        """Rows of an epoch: train and transfer."""
        train, transfer = self.plan.rows.get("train"), self.plan.rows.get("transfer", 0)
        return None if train is None or transfer is None else train + transfer

    @property
    def all_rows(self) -> int | None:
        """Rows of all splits."""
        counts = list(self.plan.rows.values())
        return None if None in counts else sum(cast("list[int]", counts))


def problem_of(task: TaskSpec) -> str:
    """`single_label`, `multi_label` or `regression`."""
    return task.problem if isinstance(task, TextClassificationSpec) else "single_label"


def look_at_rows(recipe: Recipe, notes: Notes, python_objects: bool) -> RowsFound:
    """What can be seen of the recipe's data; problems go to `notes`."""
    task, spec = recipe.task, recipe.data
    names = spec.splits
    given = labels_given(task)
    twice = [name for name, times in Counter(given or ()).items() if times > 1]
    if twice:
        notes.problem(("task", "labels"), f'"{twice[0]}" stands twice. Each label has one id.')
    splits = _splits(
        spec.source, ("data", "source"), task, {names.train, names.test, names.validation}, notes, python_objects
    )
    if spec.source == "digits":
        return _digits(recipe, notes)
    transfer = _transfer_rows(recipe, notes, python_objects)
    if splits is None:
        rows: dict[str, int | None] = {"train": None, **({} if transfer == 0 else {"transfer": transfer})}
        known = True if isinstance(task, CausalLMSpec) else None
        plan = DataPlan(spec.source, rows, (), given or (), known, "counted when the data is loaded")
        return RowsFound(plan, whole=False)
    chosen = _chosen(names, splits, notes)
    train = chosen.get("train")
    if train is None:
        return RowsFound(DataPlan(spec.source, {"train": None}, (), given or (), None), whole=False)
    _columns(task, chosen, notes)
    labelled, labels = True, given or ()
    if not isinstance(task, CausalLMSpec):
        labelled = _labelled(task, train, notes)
        labels = _labels(task, recipe.data.min_class_rows, chosen, notes) if labelled else labels
    counts, note = _counts(recipe, chosen, labelled, notes)
    if transfer != 0:
        counts["transfer"] = transfer
    texts, whole = _texts(task, train)
    return RowsFound(DataPlan(spec.source, counts, tuple(train.columns), labels, labelled, note), texts, whole, chosen)


def labels_given(task: TaskSpec) -> tuple[str, ...] | None:
    """The labels that the recipe names; None where it names none, or the task has none."""
    return None if isinstance(task, CausalLMSpec) else task.labels


def _splits(
    source: str, path: Path, task: TaskSpec, names: set[str | None], notes: Notes, python_objects: bool
) -> dict[str, Table] | None:
    """Splits of a source by name; None where they can't be seen from here."""
    with notes.at(path):
        found = find_source(source, "data")
        if found.kind == "python" and not python_objects:
            notes.problem(path, '"python" stands for rows handed over to attar.distill_models; give a source here.')
        if found.path is None or found.path.is_file():
            return None if found.path is None else file_splits(found.path)
        splits = folder_splits(found.path)
        if splits is None and isinstance(task, ImageClassificationSpec):
            splits = image_splits(found.path, task.image, task.label, {name for name in names if name} | {"validation"})
        if splits is None and not _is_saved(found.path):
            notes.problem(
                path,
                f"{found.path} holds no data files. Put train.parquet, train.csv or train.jsonl there (and test.…), or "
                "images as SPLIT/LABEL/FILE for image classification.",
            )
        return splits
    return None


def _is_saved(folder: FilePath) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _digits(recipe: Recipe, notes: Notes) -> RowsFound:
    task = recipe.task
    labels = tuple(str(digit) for digit in range(10))
    if not isinstance(task, ImageClassificationSpec):
        notes.problem(("data", "source"), f"`digits` are images, but task.kind is {task.kind}.")
        return RowsFound(DataPlan("digits", {"train": None}, (), (), None), whole=False)
    if task.labels is not None and set(task.labels) != set(labels) and len(task.labels) != len(labels):
        notes.problem(
            ("task", "labels"), f"digits have the labels {listed(labels)}, not {listed(task.labels, _SHOWN)}."
        )
    columns = (task.image, task.label)
    held_out = round(_DIGITS_ROWS["train"] * recipe.data.validation_fraction)
    train = _DIGITS_ROWS["train"] - held_out
    if recipe.data.max_train_rows is not None:
        train = min(train, recipe.data.max_train_rows)
    rows: dict[str, int | None] = {"train": train, "validation": held_out, "test": _DIGITS_ROWS["test"]}
    transfer = _transfer_rows(recipe, notes, False)
    if transfer != 0:
        rows["transfer"] = transfer
    return RowsFound(DataPlan("digits", rows, columns, task.labels or labels, True, "validation is cut from train"))


def _chosen(names: SplitsSpec, splits: dict[str, Table], notes: Notes) -> dict[str, Table]:
    """Tables by role; train missing is a problem, and so is any split that the recipe names."""
    wanted = {"train": names.train, "validation": names.validation, "test": names.test}
    if names.validation is None and "validation" in splits and "validation" not in (names.train, names.test):
        wanted["validation"] = "validation"
    chosen: dict[str, Table] = {}
    for role, name in wanted.items():
        if name is None:
            continue
        if name in splits:
            chosen[role] = splits[name]
            if splits[name].rows == 0:
                notes.problem(("data", "splits", role), f"{splits[name].place} has no rows.")
        elif role != "test" or "test" in names.model_fields_set:
            message = f'there is no split "{name}".{did_you_mean(name, splits)} Splits here: {listed(splits)}.'
            notes.problem(("data", "splits", role), message)
    return chosen


def columns_of(task: TaskSpec) -> dict[str, str]:
    """The columns with a row's inputs, by the task's field that names each."""
    match task:
        case CausalLMSpec():
            return task.columns
        case TextClassificationSpec():
            return {"text": task.text, **({} if task.text_pair is None else {"text_pair": task.text_pair})}
        case ImageClassificationSpec():
            return {"image": task.image}


def _columns(task: TaskSpec, chosen: dict[str, Table], notes: Notes) -> None:
    slices = {} if task.slice_by is None else {"slice_by": task.slice_by}
    for name, column in {**columns_of(task), **slices}.items():
        for table in chosen.values():
            if table.columns and column not in table.columns:
                notes.problem(("task", *name.split(".", 1)), _no_column(column, table))
                break


def _no_column(column: str, table: Table) -> str:
    near = did_you_mean(column, table.columns)
    return f'{table.place} has no column "{column}".{near} Columns there: {listed(table.columns)}.'


def _labelled(task: ClassificationSpec, train: Table, notes: Notes) -> bool:
    if task.label in train.columns:
        return True
    taken = {getattr(task, name, None) for name in ("text", "text_pair", "image", "slice_by")}
    free = [column for column in train.columns if column not in taken]
    if "label" in task.model_fields_set or nearest(task.label, free) is not None:
        notes.problem(("task", "label"), _no_column(task.label, train))
        return True
    notes.warn(
        ("task", "label"), "the data has no labels: agreement with the teacher is the metric; there is no control."
    )
    return False


def _labels(task: ClassificationSpec, least: int, chosen: dict[str, Table], notes: Notes) -> tuple[str, ...]:
    """Names of the labels: of the recipe, else of the data; and whether they fit each other."""
    values = {role: _values(task, table) for role, table in chosen.items() if task.label in table.columns}
    if problem_of(task) == "regression":
        _numbers(values, chosen, notes)
        return task.labels or (task.label,)
    counts = {role: Counter(str(value) for value in held) for role, held in values.items()}
    train = counts.get("train", Counter())
    empty = sum(train.pop(blank, 0) for blank in ("None", "", "nan"))
    if empty and problem_of(task) == "single_label":
        notes.problem(
            ("task", "label"), f'{chosen["train"].place}: {empty:,} rows have no label in column "{task.label}".'
        )
    found = sorted(set().union(*counts.values()) - {"None", "", "nan"}, key=_natural)
    names = chosen["train"].names.get(task.label)
    if task.labels is not None:
        _against(task.labels, found, notes)
    if problem_of(task) == "single_label" and len(train) < 2 and train:
        only = next(iter(train))
        notes.problem(
            ("data", "splits", "train"),
            f'train has one label only ("{only}", {train[only]:,} rows); a classifier needs two.',
        )
    few = [f'"{name}" ({count})' for name, count in train.items() if count < least]
    if few:
        notes.problem(
            ("data", "min_class_rows"), f"labels with fewer than {least} training rows: {listed(few, _SHOWN)}."
        )
    return task.labels or (tuple(names) if names else tuple(found))


def _against(labels: tuple[str, ...], found: list[str], notes: Notes) -> None:
    """Labels of the recipe against those of the data; whole numbers within range count as ids."""
    if all(name.isdecimal() and int(name) < len(labels) for name in found):
        return
    unknown = [name for name in found if name not in labels]
    if unknown:
        told = [f'"{name}"{did_you_mean(name, labels)}' for name in unknown]
        message = (
            f"the data has labels that are not listed here: {listed(told, _SHOWN)}. Add them, or correct the data."
        )
        notes.problem(("task", "labels"), message)
    unused = [name for name in labels if name not in found]
    if unused and not unknown:
        notes.warn(("task", "labels"), f"the data has no row with {listed(unused, _SHOWN)}.")


def _values(task: ClassificationSpec, table: Table) -> list[Any]:
    values = table.read(task.label, MAX_ROWS)
    names = table.names.get(task.label)
    if problem_of(task) == "multi_label":
        values = [inner for value in values for inner in _inner(value)]
    return [names[v] if names and isinstance(v, int) and 0 <= v < len(names) else _whole(v) for v in values]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _inner(value: Any) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    if not isinstance(value, list):
        return [value]
    cells = cast("list[Any]", value)
    multi_hot = len(cells) > 1 and all(isinstance(cell, float | bool) for cell in cells)
    return [] if multi_hot else cells


def _numbers(values: dict[str, list[Any]], chosen: dict[str, Table], notes: Notes) -> None:
    for role, held in values.items():
        for row, value in enumerate(held):
            try:
                finite = math.isfinite(float(value))
            except (TypeError, ValueError):
                finite = False
            if not finite:
                place = f"{chosen[role].place}, row {row}"
                message = f"problem: regression needs finite numbers, but {place} holds {value!r:.40}."
                notes.problem(("task", "label"), message)
                break


def _natural(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _counts(
    recipe: Recipe, chosen: dict[str, Table], labelled: bool, notes: Notes
) -> tuple[dict[str, int | None], str]:
    """Rows by role after the cuts; overlaps are found only when the rows are loaded."""
    spec = recipe.data
    train = chosen["train"].rows
    counts: dict[str, int | None] = {"train": train}
    cuts = [role for role in ("test", "validation") if role not in chosen]
    kept = _must_stay(recipe.task, chosen["train"], labelled) if cuts else 1
    for role, fraction in (("test", spec.test_fraction), ("validation", spec.validation_fraction)):
        if role in chosen:
            counts[role] = chosen[role].rows
        elif train is None:
            counts[role] = None
        else:
            counts[role] = cut = min(max(round(train * fraction), 1), max(train - kept, 0))
            train -= cut
    if any(counts[role] == 0 for role in cuts):
        message = (
            f"train has {chosen['train'].rows:,} rows, too few to cut {' and '.join(cuts)} from it: each class keeps "
            "a row. Give these splits, or more rows."
        )
        notes.problem(("data", "source"), message)
    counts["train"] = train
    limits = {"train": spec.max_train_rows, "validation": spec.max_held_out_rows, "test": spec.max_held_out_rows}
    ordered = {role: _at_most(counts[role], limit) for role, limit in limits.items()}
    return (
        ordered,
        f"{' and '.join(cuts)} cut from train; overlaps not yet removed" if cuts else "overlaps not yet removed",
    )


def _at_most(count: int | None, limit: int | None) -> int | None:
    return count if count is None or limit is None else min(count, limit)


def _must_stay(task: TaskSpec, train: Table, labelled: bool) -> int:
    """Rows that no cut takes from train: one of each class, where a row has one class."""
    if isinstance(task, CausalLMSpec) or not labelled or problem_of(task) != "single_label":
        return 1
    if task.label not in train.columns:
        return 1
    return max(len({str(value) for value in _values(task, train)}), 1)


def _transfer_rows(recipe: Recipe, notes: Notes, python_objects: bool) -> int | None:
    """Rows that the teacher labels besides; None where a source can't be counted from here."""
    total: int | None = 0
    fitting = {"text_classification": "augment_text", "image_classification": "augment_image"}.get(recipe.task.kind)
    for number, spec in enumerate(recipe.data.transfer):
        path: Path = ("data", "transfer", number)
        match spec:
            case AugmentTextSpec() | AugmentImageSpec():
                if spec.kind != fitting:
                    told = "unlabelled, from a source" if fitting is None else fitting
                    notes.problem(
                        (*path, "kind"), f"{spec.kind} does not fit task.kind: {recipe.task.kind}. Use {told}."
                    )
                rows: int | None = spec.rows
            case UnlabelledSpec():
                rows = _unlabelled(spec, path, recipe, notes, python_objects)
        total = None if total is None or rows is None else total + rows
    return total


def _unlabelled(spec: UnlabelledSpec, path: Path, recipe: Recipe, notes: Notes, python_objects: bool) -> int | None:
    columns = columns_of(recipe.task)
    if "prompt" in columns:  # the teacher answers them
        columns = {"prompt": columns["prompt"]}
        if isinstance(recipe.teacher, StoredTeacherSpec):
            notes.problem(path, "a store cannot answer prompts. Use teacher.kind: local, or remove this line.")
    splits = _splits(spec.source, (*path, "source"), recipe.task, {spec.split}, notes, python_objects)
    if splits is None:
        return spec.rows
    table = splits.get(spec.split)
    if table is None:
        near = did_you_mean(spec.split, splits)
        notes.problem((*path, "split"), f'there is no split "{spec.split}".{near} Splits there: {listed(splits)}.')
        return spec.rows
    for column in columns.values():
        if column not in table.columns:
            notes.problem((*path, "source"), _no_column(column, table))
    if table.rows is None or spec.rows is None:
        return spec.rows if table.rows is None else table.rows
    return min(table.rows, spec.rows)


def _texts(task: TaskSpec, train: Table) -> tuple[list[str], bool]:
    columns = [column for column in columns_of(task).values() if column in train.columns]
    if isinstance(task, ImageClassificationSpec) or not columns:
        return [], False
    sides = [[_as_text(value) for value in train.read(column, _SAMPLE)] for column in columns]
    texts = [" ".join(parts) for parts in zip(*sides, strict=False)]
    return texts, train.whole and train.rows is not None and train.rows <= _SAMPLE


def _as_text(value: object) -> str:
    """A cell's words; of a chat those of its messages."""
    if isinstance(value, list):
        return " ".join(str(cast("dict[str, Any]", m).get("content", "")) for m in value if isinstance(m, dict))
    return value if isinstance(value, str) else ""
