"""Local files: parquet, CSV, TSV and JSON lines, one file or a folder of them named by split.

Everything is read into memory; no cache is written. CSV cells stay text (a label "01" is not the number 1), and a row
of any length is read. An error names the file and the line.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_from_disk
from datasets.table import InMemoryTable

from attar.data.raw import RawSplit
from attar.errors import DataError

_SHARD = re.compile(r"^(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_SHARD_FOLDER = "data"


def is_table(path: Path) -> bool:
    """Is this a file that `read_file` reads?"""
    return path.is_file() and path.suffix.lower() in _READERS and not path.name.startswith(".")


def read_file(path: Path) -> RawSplit:
    """One file as one split. Raises DataError."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: cannot read this kind of file. Give one of: {', '.join(_READERS)}.")
    try:
        return RawSplit(str(path), reader(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text at byte {error.start}. Save the file as UTF-8.") from error


def read_tables(folder: Path, config: str | None) -> dict[str, RawSplit] | None:
    """Splits of a folder by file stem (`train.parquet`, or shards `train-00000-of-00002.parquet`), also in its folder
    `data` or the one named by `config`; a folder written by `save_to_disk` works too. None where it holds no such file.
    """
    if config is not None:
        folder = folder / config
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder. `data.config` names a folder inside a local source.")
    saved = _saved_to_disk(folder)
    if saved is not None:
        return saved
    files = [p for p in sorted(folder.iterdir()) if is_table(p)]
    if not files and (folder / _SHARD_FOLDER).is_dir():
        files = [p for p in sorted((folder / _SHARD_FOLDER).iterdir()) if is_table(p)]
    if not files:
        return None
    shards: dict[str, list[Path]] = {}
    for path in files:
        shard = _SHARD.match(path.stem)
        shards.setdefault(shard["split"] if shard else path.stem, []).append(path)
    return {name: _joined(name, paths) for name, paths in shards.items()}


def _joined(name: str, paths: list[Path]) -> RawSplit:
    if len(paths) == 1:
        return read_file(paths[0])
    if any(p.suffix.lower() != ".parquet" for p in paths) or len({p.stem for p in paths}) != len(paths):
        raise DataError(
            f'{paths[0].parent}: the split "{name}" stands in several files: {", ".join(p.name for p in paths)}. '
            "Keep one."
        )
    tables = [pq.read_table(p) for p in paths]
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise DataError(f'{paths[0].parent}: the shards of "{name}" have different columns: {error}') from error
    return RawSplit(f"{paths[0].parent}/{name}", Dataset(InMemoryTable(table)))


def _saved_to_disk(folder: Path) -> dict[str, RawSplit] | None:
    if not ((folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()):
        return None
    saved = load_from_disk(folder)
    if isinstance(saved, DatasetDict):
        return {str(name): RawSplit(f"{folder}/{name}", split) for name, split in saved.items()}
    return {"train": RawSplit(str(folder), saved)}


def _read_parquet(path: Path) -> Dataset:
    try:
        return Dataset(InMemoryTable(pq.read_table(path)))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error


def _read_csv(path: Path) -> dict[str, list[Any]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as stream, _any_length():
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            header = next(reader, None)
            if not header or len(set(header)) != len(header):
                raise DataError(f"{path}: the first line must name the columns, each once; got {header or 'nothing'}.")
            columns: dict[str, list[Any]] = {name: [] for name in header}
            cells = list(columns.values())
            for row in reader:
                if not row:
                    continue
                if len(row) != len(cells):
                    raise DataError(
                        f"{path}:{reader.line_num}: got {len(row)} cells, the header has {len(cells)}. "
                        "Quote cells that hold the delimiter or a line break."
                    )
                for column, value in zip(cells, row, strict=True):
                    column.append(value)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not readable as CSV: {error}.") from error
    return columns


@contextmanager
def _any_length() -> Generator[None]:
    """Lift Python's limit on the length of a CSV cell while a file is read."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_json(path: Path) -> dict[str, list[Any]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        if text.lstrip().startswith("["):
            rows = cast("list[Any]", json.loads(text))
            return rows_to_columns(rows, lambda number: f"{path}, row {number}")
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        parsed = [_parse_line(path, number, line) for number, line in lines]
        return rows_to_columns(parsed, lambda number: f"{path}:{lines[number][0]}")
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not JSON: {error.msg}. Write one object a line, or one list of objects."
        ) from error


def _parse_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{number}: not JSON: {error.msg}. Write one object a line.") from error


def rows_to_columns(rows: list[Any], place: Callable[[int], str]) -> dict[str, list[Any]]:
    """Columns of a list of row dictionaries; a key that a row lacks is None there. `place` names a row."""
    names: dict[str, None] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{place(number)}: got {type(row).__name__}, a row must be an object with column names.")
        names.update(dict.fromkeys(cast("dict[str, Any]", row)))
    return {name: [row.get(name) for row in rows] for name in names}


_READERS: dict[str, Callable[[Path], Dataset | dict[str, list[Any]]]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
}
