"""HTML by construction: whatever is not already `Html` is escaped, so no text of the run can become markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_VOID = {"meta", "img", "wbr", "line", "rect", "circle", "path", "polyline"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Text that is safe to put into the page."""

    __slots__ = ()


Child = str | Iterable["Child"] | None
"""A child of an element: text (escaped), Html (as it is), a list of children, or nothing."""


def text(value: str) -> Html:
    """Escaped text; characters that HTML does not allow become U+FFFD."""
    return Html(escape(_CONTROL.sub("\ufffd", value), quote=True))


def join(*children: Child) -> Html:
    """Children one after another."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(text(child))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def tag(name: str, /, *children: Child, **attributes: Any) -> Html:
    """An element. `class_` is class, `aria_label` is aria-label; attributes that are None or False are left out."""
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return f' {name}="{text(f"{value:g}" if isinstance(value, float) else str(value))}"'


@dataclass(frozen=True)
class Column:
    """A table's column."""

    label: str
    numeric: bool = True
    wide: bool = False
    """Long text: it may wrap."""


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Child]],
    *,
    marked: Iterable[int] = (),
    hide: bool = False,
) -> Html:
    """A table that scrolls sideways where it must. The first cell of a row is its header.

    `marked` rows are set off; `hide` keeps the caption for screen readers only.
    """
    strong = set(marked)
    head = tag("tr", [tag("th", c.label, scope="col", class_=_class(c)) for c in columns])
    body = [
        tag(
            "tr",
            [
                tag("th" if i == 0 else "td", cell, scope="row" if i == 0 else None, class_=_class(columns[i]))
                for i, cell in enumerate(row)
            ],
            class_="marked" if number in strong else None,
        )
        for number, row in enumerate(rows)
    ]
    inner = tag(
        "table", tag("caption", caption, class_="unseen" if hide else None), tag("thead", head), tag("tbody", body)
    )
    return tag("div", inner, class_="scroll", role="region", aria_label=caption, tabindex="0")


def definition_list(pairs: Iterable[tuple[str, Child]], class_: str = "facts") -> Html:
    """Names and what they stand for."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs], class_=class_)


def _class(column: Column) -> str | None:
    return "number" if column.numeric else "wide" if column.wide else None
