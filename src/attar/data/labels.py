"""Labels: from whatever a column holds to ids, multi-hot rows or numbers, with one list of names for all splits.

Names come from `task.labels`, else from a ClassLabel feature, else from the distinct values of all splits (whole
numbers in numeric order). A value is looked up by its name first, and as a position only where no value of the column
is a name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from attar.data.raw import RawSplit, describe_rows
from attar.errors import DataError
from attar.recipe.nearest import did_you_mean, listed, nearest
from attar.recipe.task import CausalLMSpec, ClassificationSpec, TaskSpec, TextClassificationSpec

NO_LABEL = -100
"""Id of a row without a label."""
_SHOWN = 10
_REPAIR = "Fill the label in, or remove the row (rows without labels can go into data.transfer as `unlabelled`)."
Label = str | int
"""A label as it stands in the data: a name, or an id."""


@dataclass(frozen=True)
class Labels:
    """Names by id, and the labels of each split: int64 [N], float32 [N, C] or float32 [N]; -100 or NaN where none."""

    names: tuple[str, ...]
    labelled: bool
    by_split: dict[str, np.ndarray]


def problem_of(task: TaskSpec) -> str:
    """`single_label`, `multi_label` or `regression`."""
    return task.problem if isinstance(task, TextClassificationSpec) else "single_label"


def read_labels(task: TaskSpec, splits: Mapping[str, RawSplit]) -> Labels:
    """Labels of every split. Data without a label column is unlabelled. Raises DataError.

    Of a language model the text itself is what is learned: its rows count as labelled, and no row has a label.
    """
    problem = problem_of(task)
    if isinstance(task, CausalLMSpec):
        return Labels((), True, {split: no_labels(problem, len(raw), 0) for split, raw in splits.items()})
    names = task.labels
    if names is not None and len(set(names)) != len(names):
        raise DataError(f"task.labels: each name may stand once, got {listed(names)}.")
    if not _labelled(task, splits):
        width = len(names or ())
        return Labels(names or (), False, {split: no_labels(problem, len(raw), width) for split, raw in splits.items()})
    match problem:
        case "regression":
            return Labels(
                names or (task.label,), True, {split: _numbers(raw, task.label) for split, raw in splits.items()}
            )
        case "multi_label":
            return _multi(task, splits)
        case _:
            return _single(task, splits)


def no_labels(problem: str, rows: int, width: int) -> np.ndarray:
    """Labels of rows that have none, in the form of the problem; `width` counts the labels of `multi_label`."""
    match problem:
        case "regression":
            return np.full(rows, np.nan, dtype=np.float32)
        case "multi_label":
            return np.full((rows, max(width, 1)), np.nan, dtype=np.float32)
        case _:
            return np.full(rows, NO_LABEL, dtype=np.int64)


def _labelled(task: ClassificationSpec, splits: Mapping[str, RawSplit]) -> bool:
    having = [split for split, raw in splits.items() if task.label in raw.columns]
    if having:
        for raw in splits.values():
            raw.require(task.label, "task.label")
        return not all(value is None for raw in splits.values() for value in raw.values(task.label))
    raw = next(iter(splits.values()))
    taken = {getattr(task, name, None) for name in ("text", "text_pair", "image", "slice_by")}
    free = [column for column in raw.columns if column not in taken]
    near = nearest(task.label, free)
    if "label" in task.model_fields_set or near is not None:
        raise DataError(
            f'{raw.place}: there is no column "{task.label}" (task.label).{did_you_mean(task.label, free)} Columns '
            f"here: {listed(raw.columns)}. Set task.label, or remove such columns and the setting where the data has "
            "no labels."
        )
    return False


def _single(task: ClassificationSpec, splits: Mapping[str, RawSplit]) -> Labels:
    cells = {split: _single_cells(raw, task.label) for split, raw in splits.items()}
    ids = _ids_by_value({value for values in cells.values() for value in values}, task, splits)
    names = _names(ids, task, splits)
    arrays = {split: np.array([ids[value] for value in values], dtype=np.int64) for split, values in cells.items()}
    return Labels(names, True, arrays)


def _single_cells(raw: RawSplit, column: str) -> list[Label]:
    values = [_cell(value, raw, column) for value in raw.values(column)]
    known = _class_names(raw, column)
    absent = (None, NO_LABEL) if known is None else (None, NO_LABEL, -1)
    missing = [(row, value) for row, value in enumerate(values) if value in absent]
    if missing:
        raise DataError(f'{raw.place}: no label in column "{column}": {describe_rows(missing)}. {_REPAIR}')
    return _named(cast("list[Label]", values), known, raw, column)


def _cell(value: object, raw: RawSplit, column: str) -> Label | None:
    """A name or id; None where there is none."""
    if isinstance(value, np.generic):
        value = value.item()
    match value:
        case None | "":
            return None
        case bool():
            return int(value)
        case str():
            return int(value) if _is_whole(value) else value
        case int():
            return value
        case float() if math.isnan(value):
            return None
        case float() if value.is_integer():
            return int(value)
        case _:
            raise DataError(
                f'{raw.place}: column "{column}" holds {value!r:.60}, a label must be a name or a whole number. For '
                "numbers set task.problem: regression; for several labels a row, task.problem: multi_label."
            )


def _class_names(raw: RawSplit, column: str) -> list[str] | None:
    feature = raw.feature(column)
    while feature is not None and not hasattr(feature, "names"):
        feature = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return None if feature is None else list(cast("Any", feature).names)


def _named(values: list[Label], names: list[str] | None, raw: RawSplit, column: str) -> list[Label]:
    if names is None:
        return values
    wrong = [(row, v) for row, v in enumerate(values) if isinstance(v, int) and not 0 <= v < len(names)]
    if wrong:
        raise DataError(
            f'{raw.place}: column "{column}" has ids outside 0..{len(names) - 1}: {describe_rows(wrong)}. {_REPAIR}'
        )
    return [names[v] if isinstance(v, int) else v for v in values]


def _ids_by_value(values: set[Label], task: ClassificationSpec, splits: Mapping[str, RawSplit]) -> dict[Label, int]:
    names = task.labels or _feature_names(task, splits)
    if names is None:
        numeric = all(isinstance(value, int) for value in values)
        return {value: i for i, value in enumerate(sorted(values, key=int if numeric else str))}
    by_name = {name: i for i, name in enumerate(names)}
    if all(str(value) in by_name for value in values):
        return {value: by_name[str(value)] for value in values}
    if all(isinstance(value, int) and 0 <= value < len(names) for value in values):
        return {value: int(value) for value in values}
    unknown = sorted(str(v) for v in values if str(v) not in by_name)
    told = [f'"{v}"{did_you_mean(v, names)}' for v in unknown[:_SHOWN]]
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    raise DataError(
        f'{_places(splits)}: column "{task.label}" has labels that task.labels does not name: {", ".join(told)}{more}. '
        f"Known: {listed(names)}. Correct the data, or add them to task.labels."
    )


def _feature_names(task: ClassificationSpec, splits: Mapping[str, RawSplit]) -> tuple[str, ...] | None:
    found = [_class_names(raw, task.label) for raw in splits.values()]
    if not all(found):
        return None
    return tuple(dict.fromkeys(name for names in found for name in names or ()))


def _is_whole(text: str) -> bool:
    """Is this a whole number as Python would write it (so that "01" stays a name)?"""
    return text.removeprefix("-").isdecimal() and text.isascii() and str(int(text)) == text


def _names(ids: dict[Label, int], task: ClassificationSpec, splits: Mapping[str, RawSplit]) -> tuple[str, ...]:
    fixed = task.labels or _feature_names(task, splits)
    return (
        fixed if fixed is not None else tuple(str(value) for value, _ in sorted(ids.items(), key=lambda item: item[1]))
    )


def _places(splits: Mapping[str, RawSplit]) -> str:
    return ", ".join(dict.fromkeys(raw.place for raw in splits.values()))


def _multi(task: ClassificationSpec, splits: Mapping[str, RawSplit]) -> Labels:
    cells = {split: _lists(raw, task.label) for split, raw in splits.items()}
    rows = [row for split in cells.values() for row in split]
    if _is_multi_hot(rows, len(task.labels) if task.labels is not None else None):
        width = len(rows[0])
        names = task.labels or _feature_names(task, splits) or tuple(str(i) for i in range(width))
        return Labels(
            names, True, {split: np.array(v, dtype=np.float32).reshape(-1, width) for split, v in cells.items()}
        )
    named = {split: _named_lists(values, splits[split], task.label) for split, values in cells.items()}
    ids = _ids_by_value({value for values in named.values() for row in values for value in row}, task, splits)
    names = _names(ids, task, splits)
    arrays: dict[str, np.ndarray] = {}
    for split, values in named.items():
        array = np.zeros((len(values), len(names)), dtype=np.float32)
        for row, labels in enumerate(values):
            array[row, [ids[label] for label in labels]] = 1.0
        arrays[split] = array
    return Labels(names, True, arrays)


def _lists(raw: RawSplit, column: str) -> list[list[Any]]:
    values = [_list(value) for value in raw.values(column)]
    wrong = [(row, value) for row, value in enumerate(values) if not isinstance(value, list)]
    if wrong:
        raise DataError(
            f'{raw.place}: column "{column}" must hold a list of labels a row (problem: multi_label), got '
            f'{describe_rows(wrong)}. Write lists such as ["a", "b"] (JSON in CSV cells); [] where no label applies.'
        )
    return cast("list[list[Any]]", values)


def _list(value: object) -> object:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    if isinstance(value, np.ndarray | tuple):
        return [v.item() if isinstance(v, np.generic) else v for v in cast("Sequence[Any]", value)]
    return value


def _is_multi_hot(rows: list[list[Any]], width: int | None) -> bool:
    """Are these rows of 0 and 1, one for each label? Ids 0 and 1 look alike: there the row's length or a repetition
    tells.
    """
    widths = {len(row) for row in rows}
    if len(widths) != 1 or not rows[0]:
        return False
    flat = [value for row in rows for value in row]
    if not all(isinstance(value, bool | int | float) and value in (0, 1) for value in flat):
        return False
    if any(isinstance(value, bool | float) for value in flat):
        return True
    if width is not None:
        return widths == {width}
    return any(len(set(row)) < len(row) for row in rows)


def _named_lists(rows: list[list[Any]], raw: RawSplit, column: str) -> list[list[Label]]:
    names = _class_names(raw, column)
    named: list[list[Label]] = []
    for number, row in enumerate(rows):
        cells = [_cell(value, raw, column) for value in row]
        if any(cell is None for cell in cells):
            raise DataError(
                f'{raw.place}: an empty label in column "{column}": {describe_rows([(number, row)])}. {_REPAIR}'
            )
        named.append(_named(cast("list[Label]", cells), names, raw, column))
    return named


def _numbers(raw: RawSplit, column: str) -> np.ndarray:
    numbers: list[float] = []
    wrong: list[tuple[int, object]] = []
    for row, value in enumerate(raw.values(column)):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            wrong.append((row, value))
        numbers.append(number)
    if wrong:
        raise DataError(
            f'{raw.place}: column "{column}" must hold finite numbers (problem: regression), got '
            f"{describe_rows(wrong)}. {_REPAIR}"
        )
    return np.array(numbers, dtype=np.float32)
