"""A look at local data without loading it: splits, rows, column names, and single columns where they are cheap to read.

Parquet is read by column; CSV and JSON only up to `MAX_TEXT_BYTES`, beyond which a count is an estimate (None).
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from attar.errors import DataError

MAX_TEXT_BYTES = 8 << 20
MAX_ROWS = 200_000
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_SHARD = re.compile(r"^(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?$")


@dataclass
class Table:
    """One split. `rows` None: only reading all of it can tell."""

    place: str
    rows: int | None
    columns: list[str]
    read: Callable[[str, int], list[Any]]
    """The values of a column, of at most so many rows from the start."""
    whole: bool = True
    """Does `read` reach every row (up to MAX_ROWS)?"""
    names: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Names of the ids of a column, where the file says (ClassLabel)."""


def file_splits(path: Path) -> dict[str, Table]:
    """One file is the split `train`. Raises DataError."""
    return {"train": _table([path])}


def folder_splits(folder: Path) -> dict[str, Table] | None:
    """Splits of a folder by file stem, shards joined; None where it holds no tables. Raises DataError."""
    files = [p for p in sorted(folder.iterdir()) if _is_table(p)]
    if not files and (folder / "data").is_dir():
        files = [p for p in sorted((folder / "data").iterdir()) if _is_table(p)]
    shards: dict[str, list[Path]] = {}
    for path in files:
        match = _SHARD.match(path.stem)
        shards.setdefault(match["split"] if match else path.stem, []).append(path)
    return {name: _table(paths) for name, paths in shards.items()} or None


def image_splits(folder: Path, image: str, label: str, split_names: set[str]) -> dict[str, Table] | None:
    """Splits of SPLIT/LABEL/FILE, LABEL/FILE, SPLIT/FILE or FILE; None where there are no images."""
    found: list[tuple[str, ...]] = []
    for root, _, files in os.walk(folder):
        parts = Path(root).relative_to(folder).parts
        found += [
            (*parts, name) for name in files if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
        if len(found) > MAX_ROWS:
            break
    if not found:
        return None
    depth = len(found[0])
    by_split = depth == 3 or (depth == 2 and {parts[0] for parts in found} <= split_names)
    labelled = depth - int(by_split) == 2
    labels: dict[str, list[str]] = {}
    for parts in found:
        labels.setdefault(parts[0] if by_split else "train", []).append(parts[-2] if labelled else "")
    return {
        name: Table(f"{folder}/{name}", len(values), [image, label] if labelled else [image], _from_list(label, values))
        for name, values in labels.items()
    }


def _from_list(column: str, values: list[str]) -> Callable[[str, int], list[Any]]:
    return lambda name, rows: list(values[:rows]) if name == column else []


def _is_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in TABLE_SUFFIXES and not path.name.startswith(".")


def _table(paths: list[Path]) -> Table:
    suffix = paths[0].suffix.lower()
    try:
        match suffix:
            case ".parquet":
                return _parquet(paths)
            case ".csv" | ".tsv":
                return _text(paths[0], *_csv_rows(paths[0], "\t" if suffix == ".tsv" else ","))
            case ".json" | ".jsonl" | ".ndjson":
                return _text(paths[0], *_json_rows(paths[0]))
            case _:
                raise DataError(f"{paths[0]}: cannot read this kind of file. Give one of: {', '.join(TABLE_SUFFIXES)}.")
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{paths[0]}: not readable as {suffix.removeprefix('.')}: {error}") from error


def _parquet(paths: list[Path]) -> Table:
    import pyarrow.parquet as pq  # 0.15 s: only where there is parquet to look at

    files = [pq.ParquetFile(path) for path in paths]
    schema = cast("Any", files[0].schema_arrow)

    def read(column: str, rows: int) -> list[Any]:
        values: list[Any] = []
        for file in files:
            for batch in file.iter_batches(batch_size=16_384, columns=[column]):
                values += batch.column(0).to_pylist()
                if len(values) >= rows:
                    return values[:rows]
        return values

    place = str(paths[0]) if len(paths) == 1 else str(paths[0].parent)
    rows = sum(int(file.metadata.num_rows) for file in files)
    return Table(place, rows, [str(name) for name in schema.names], read, names=_class_names(schema.metadata))


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Label names that `datasets` has written into a parquet file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {
        column: list(feature["names"])
        for column, feature in features.items()
        if isinstance(feature, dict) and "names" in feature
    }


def _text(path: Path, rows: list[dict[str, Any]], whole: bool) -> Table:
    columns = list(dict.fromkeys(name for row in rows[:1000] for name in row))
    return Table(
        str(path),
        len(rows) if whole else None,
        columns,
        lambda name, most: [row.get(name) for row in rows[:most]],
        whole,
    )


def _head(path: Path) -> tuple[str, bool]:
    """The start of a text file up to its last whole line, and whether that is all of it."""
    with path.open("rb") as stream:
        raw = stream.read(MAX_TEXT_BYTES)
        whole = not stream.read(1)
    return (raw if whole else raw[: raw.rfind(b"\n") + 1]).decode("utf-8-sig"), whole


def _csv_rows(path: Path, delimiter: str) -> tuple[list[dict[str, Any]], bool]:
    text, whole = _head(path)
    before = csv.field_size_limit(sys.maxsize)
    try:
        return list(csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)), whole
    finally:
        csv.field_size_limit(before)


def _json_rows(path: Path) -> tuple[list[dict[str, Any]], bool]:
    text, whole = _head(path)
    if text.lstrip().startswith("["):
        rows = json.loads(text) if whole else []
    else:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    return [cast("dict[str, Any]", row) for row in rows if isinstance(row, dict)], whole
