"""Answers of a language model as JSON: one compact object a row, made of columns in the recipe's order of members."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from attar.data.raw import RawSplit
from attar.errors import DataError
from attar.recipe.task import CausalLMSpec

_SHOWN = 60


def json_answers(raw: RawSplit, spec: CausalLMSpec) -> list[str]:
    """The answers of all rows. Raises DataError that names split, row and column.

    A cell is a value of its own: text, a number, true, false, null, a list or an object; an id of a named class is
    written as its name. Of pieces (`spans`) those with a name become members in the order of the text, without spaces
    around; a name that stands twice has a list.
    """
    members: dict[str, list[Any]] = {}
    for name, of in (spec.json_fields or {}).items():
        column, setting = (of, f"task.json_fields.{name}") if isinstance(of, str) else (of.spans, _spans(name))
        raw.require(column, setting)
        cells = raw.values(column)
        places = (f'{raw.place}, row {row}, column "{column}"' for row in range(len(cells)))
        if isinstance(of, str):
            names = cast("list[str] | None", getattr(raw.feature(column), "names", None))
            cells = cells if names is None else [names[cell] if isinstance(cell, int) else cell for cell in cells]
            members[name] = [_value(cell, place) for cell, place in zip(cells, places, strict=True)]
        else:
            members[name] = [_named(cell, place) for cell, place in zip(cells, places, strict=True)]
    rows = zip(*members.values(), strict=True)
    return [compact(dict(zip(members, values, strict=True))) for values in rows]


def compact(value: Any) -> str:
    """JSON without spaces, members in their order, text as it is."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _spans(name: str) -> str:
    return f"task.json_fields.{name}.spans"


def _value(cell: Any, place: str) -> Any:
    try:
        compact(cell).encode()
    except (TypeError, ValueError):
        raise DataError(
            f"{place}: {cell!r:.{_SHOWN}} cannot stand in JSON. Correct the row, or name another column."
        ) from None
    return cell


def _named(cell: Any, place: str) -> dict[str, str | list[str]]:
    """The named pieces of one row."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise DataError(f"{place}: {cell!r:.{_SHOWN}} is no JSON. {_WANTED}") from None
    if not isinstance(cell, Sequence) or isinstance(cell, str | bytes):
        raise DataError(f"{place}: got {cell!r:.{_SHOWN}}. {_WANTED}")
    found: dict[str, list[str]] = {}
    for number, pair in enumerate(cast("Sequence[Any]", cell)):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(cast("Sequence[Any]", pair)) != 2:
            raise DataError(f"{place}: piece {number} is {pair!r:.{_SHOWN}}. {_WANTED}")
        piece, name = cast("Sequence[Any]", pair)
        if not isinstance(piece, str) or not (name is None or isinstance(name, str)):
            raise DataError(f"{place}: piece {number} is {pair!r:.{_SHOWN}}. {_WANTED}")
        if name is not None:
            found.setdefault(name, []).append(piece.strip())
    return _value({name: pieces[0] if len(pieces) == 1 else pieces for name, pieces in found.items()}, place)


_WANTED = "The pieces of a text are a list of pairs [piece, name], name null where there is none."
