"""A split as its source holds it, before columns, labels and texts are checked: one view of an Arrow table and of
plain lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from datasets import Dataset

from attar.errors import DataError
from attar.recipe.nearest import did_you_mean, listed

ArrowColumn = Any
"""A pyarrow ChunkedArray; pyarrow brings no types."""

_SHOWN_ROWS = 3
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class RawSplit:
    """Rows of one split. `place` names it in messages (`train.csv`, or `PolyAI/banking77, split "train"`)."""

    place: str
    data: Dataset | Mapping[str, Sequence[Any]]

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.data.column_names if isinstance(self.data, Dataset) else self.data)

    def __len__(self) -> int:
        if isinstance(self.data, Dataset):
            return len(self.data)
        return len(next(iter(self.data.values()), ()))

    def require(self, column: str, setting: str) -> None:
        """Raise DataError where there is no such column; `setting` is the recipe's field that names it."""
        if column not in self.columns:
            raise DataError(
                f'{self.place}: there is no column "{column}" ({setting}).{did_you_mean(column, self.columns)} '
                f"Columns here: {listed(self.columns)}. Set {setting} to one of them."
            )

    def arrow(self, column: str) -> ArrowColumn | None:
        """A column in Arrow's storage form, without a copy where the table allows it; None for plain lists."""
        if not isinstance(self.data, Dataset):
            return None
        table = cast("Any", self.data.select_columns([column]).with_format("arrow")[:])
        return table.column(0)

    def values(self, column: str) -> list[Any]:
        """A column as Python values; class ids stay ids, images stay `{bytes, path}`."""
        if isinstance(self.data, Dataset):
            return cast("Any", self.arrow(column)).to_pylist()
        return list(self.data[column])

    def feature(self, column: str) -> Any:
        """The `datasets` feature of a column, or None for plain lists."""
        return self.data.features[column] if isinstance(self.data, Dataset) else None


def describe_rows(bad: Iterable[tuple[int, object]]) -> str:
    """`row 3 (nan), row 9 (None) and 5 more`: the first rows, counted from 0, with their values."""
    every = list(bad)
    shown = ", ".join(f"row {row} ({_short(value)})" for row, value in every[:_SHOWN_ROWS])
    more = len(every) - _SHOWN_ROWS
    return f"{shown} and {more} more" if more > 0 else shown


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
