"""From the name of a source to its splits: the Hub, its offline mirror, local files and folders, digits, rows handed
over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from datasets import Dataset, DatasetDict, load_dataset

from attar.data.digits import read_digits
from attar.data.files import read_file, read_tables, rows_to_columns
from attar.data.images import read_image_folder
from attar.data.raw import RawSplit
from attar.errors import DataError
from attar.recipe.sources import find_source
from attar.recipe.task import ImageClassificationSpec, TaskSpec

Given = Dataset | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Rows handed over in Python: one split (a Dataset, columns as lists, a list of rows), or several by name."""


class Source:
    """The splits of one source by name, and the folder that relative image paths start from."""

    def __init__(self, name: str, splits: Mapping[str, RawSplit], base: Path | None = None) -> None:
        self.name = name
        self.splits = dict(splits)
        self.base = base


def read_source(
    name: str,
    *,
    config: str | None,
    revision: str | None,
    task: TaskSpec,
    split_names: set[str],
    given: Given | None = None,
) -> Source:
    """Every split of a source, unchecked. Raises DataError where it cannot be found or read.

    `split_names` tell folders of splits from folders of labels. `given` is read instead where it is not None.
    """
    if given is not None:
        return Source("python", _given_splits(given))
    found = find_source(name, "data")
    if found.kind == "python":
        raise DataError(
            'data.source is "python", but no rows were handed over. Call attar.distill_models(..., dataset=...).'
        )
    if found.kind == "embedded":
        if not isinstance(task, ImageClassificationSpec):
            raise DataError(f'data.source: "{name}" are images, but task.kind is {task.kind}.')
        return Source(name, read_digits(task.image, task.label))
    path = found.path
    if path is None:
        return Source(name, _hub_splits(found.name, config, revision))
    if path.is_file():
        return Source(name, {"train": read_file(path)}, path.parent)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder (data source {name!r}). Correct data.source.")
    if found.mirrored and config is not None and not (path / config).is_dir():
        config = None  # the mirror holds one configuration, without a folder for it
    splits = read_tables(path, config)
    if splits is None and isinstance(task, ImageClassificationSpec):
        splits = read_image_folder(path, task.image, task.label, split_names)
    if splits is None:
        raise DataError(
            f"{path}: holds no data files. Put train.parquet, train.csv or train.jsonl there (and test.…), or images "
            "as SPLIT/LABEL/FILE for image classification."
        )
    return Source(name, splits, path)


def _hub_splits(name: str, config: str | None, revision: str | None) -> dict[str, RawSplit]:
    try:
        loaded = cast("Any", load_dataset(name, config, revision=revision))
    except Exception as error:  # the Hub client raises many unrelated types
        cause = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f'data source "{name}": cannot be loaded from the Hugging Face Hub: {cause}. Check the name and the '
            f"network; offline, set ATTAR_MIRROR=DIR with the files DIR/{name.rsplit('/', 1)[-1]}/train.parquet (csv, "
            "jsonl) and test.parquet, or give data.source the path of a file or folder."
        ) from error
    if not isinstance(loaded, DatasetDict):
        raise DataError(f'data source "{name}": got {type(loaded).__name__}, not named splits. Set data.config.')
    return {str(split): RawSplit(f'{name}, split "{split}"', rows) for split, rows in loaded.items()}


def _given_splits(given: Given) -> dict[str, RawSplit]:
    if isinstance(given, Mapping) and any(_is_split(value) for value in given.values()):
        return {str(name): _given_split(str(name), value) for name, value in given.items()}
    return {"train": _given_split("train", given)}


def _is_split(value: object) -> bool:
    rows = isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and isinstance(value[0], Mapping)
    return isinstance(value, Dataset | Mapping) or rows


def _given_split(name: str, value: object) -> RawSplit:
    place = f'given rows, split "{name}"'
    match value:
        case Dataset():
            return RawSplit(place, value)
        case Mapping():
            columns = {str(column): cast("Sequence[Any]", cells) for column, cells in value.items()}
            lengths = {column: len(cells) for column, cells in columns.items()}
            if len(set(lengths.values())) > 1:
                raise DataError(
                    f"{place}: the columns differ in length: {lengths}. Every column needs one value a row."
                )
            return RawSplit(place, columns)
        case list() | tuple():
            return RawSplit(place, rows_to_columns(list(value), lambda row: f"{place}, row {row}"))
        case _:
            raise DataError(
                f"{place}: got {type(value).__name__}. Give a datasets.Dataset, a dictionary of columns or a list of "
                "rows (turn an IterableDataset into a Dataset first)."
            )
