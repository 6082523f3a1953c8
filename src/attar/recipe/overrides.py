"""`--set a.b=c`: values given on the command line, laid over a recipe's data. Values are read as YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from attar.recipe.places import Path, Place, Places, dotted
from attar.recipe.text import parse

_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_PATH = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[\d+\])*")


def apply(data: dict[str, Any], places: Places, overrides: Sequence[str]) -> tuple[Places, list[str]]:
    """Lay `overrides` over `data` in place, in their order; return the places with theirs, and every problem.

    `objectives.0.weight=2` and `objectives[0].weight=2` mean the same; an empty value is null. A section that the file
    leaves out is made; an unknown name is left for the validation to refuse, which then names the `--set`.
    """
    known = dict(places.known)
    problems: list[str] = []
    for text in overrides:
        place = Place(f"--set {text}")
        name, equals, written = text.partition("=")
        if not equals or not _PATH.fullmatch(name.strip()):
            problems.append(
                f"{place.text}  is not of the form path=value, such as training.epochs=3 or export[0].kind=onnx."
            )
            continue
        parsed = parse(written, place.text)
        if parsed.problems:
            problems += [
                f"{place.text}  the value is not plain YAML: {_first_line(message)}" for _, message in parsed.problems
            ]
            continue
        parts = [key or int(position) for key, position in _PART.findall(name.strip())]
        problem = _put(data, parts, parsed.data, known, place)
        if problem is not None:
            problems.append(f"{place.text}  {problem}")
    return Places(places.origin, known), problems


def _put(
    data: dict[str, Any], parts: list[str | int], value: Any, known: dict[Path, Place], place: Place
) -> str | None:
    """Put `value` at `parts`; return what is wrong with that path, if anything."""
    here: Any = data  # a section, a list or a value
    path: Path = ()
    for position, raw in enumerate(parts):
        part = int(raw) if isinstance(here, list) and isinstance(raw, str) and raw.isdigit() else raw
        last = position == len(parts) - 1
        if isinstance(here, list):
            items = cast("list[Any]", here)
            if not isinstance(part, int) or part >= len(items):
                allowed = f"0 to {len(items) - 1}" if items else "none: it is empty"
                return f'{dotted(path)} is a list: "{part}" is not one of its positions ({allowed}).'
        elif isinstance(here, dict):
            part = str(part)
            section = cast("dict[str, Any]", here)
            if not last and section.get(part) is None:
                section[part] = {}
                known[(*path, part)] = place
        else:
            return f"{dotted(path)} is a value, not a section: nothing can be set below it."
        path = (*path, part)
        if last:
            cast("Any", here)[part] = value
            for stale in [p for p in known if p[: len(path)] == path]:
                del known[stale]
            known[path] = place
        else:
            here = cast("Any", here)[part]
    return None


def _first_line(message: str) -> str:
    return message.splitlines()[0].partition("  ")[2]
