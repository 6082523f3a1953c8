"""From data to a Recipe, or to every problem that stands in its way.

pydantic reports all errors of one pass, but a wrong `kind` or a misspelt field hides what lies behind it. So a problem
with an evident remedy (the nearest name) is noted, remedied in a copy, and the data is validated again, until nothing
new is found. The remedies serve the search only: a recipe with any problem is refused.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import PurePath
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from attar.recipe import Recipe
from attar.recipe.names import PLAIN_NAMES
from attar.recipe.nearest import did_you_mean, listed, nearest
from attar.recipe.places import Path, Places, dotted
from attar.recipe.schema import allowed, fields_at, kinds, recipe_schema, schema_at
from attar.recipe.text import Word

_SHOWN = 60
_FREE = (("training", "extra"), ("teacher", "config"), ("student", "config"))
"""Sections with keys of someone else's choosing; words are switches there."""
_NOUNS = {"objectives": "an objective", "teacher": "a teacher", "student": "a student", "task": "a task"}


def validate(data: dict[str, Any], places: Places) -> tuple[Recipe | None, list[tuple[int, str]]]:
    """The recipe, or None with every problem as (line, message)."""
    data = deepcopy(data)
    for path in _FREE:
        section = _value(data, path)
        if isinstance(section, dict):
            _put(data, path, _switches(section))
    search = _Search(data, places)
    for _ in range(sum(1 for _ in _walk(data)) + 2):
        try:
            recipe = Recipe.model_validate_json(json.dumps(search.data, default=_plain))
        except ValidationError as error:
            if not search.note(error.errors(include_url=False)):
                break
        else:
            return (None if search.found else recipe), list(search.found.values())
    return None, list(search.found.values())


class _Search:
    """Problems found so far, and the data with evident remedies."""

    def __init__(self, data: dict[str, Any], places: Places) -> None:
        self.data = data
        self.known = dict(places.known)
        self.origin = places.origin
        self.found: dict[Path, tuple[int, str]] = {}

    def note(self, errors: list[ErrorDetails]) -> bool:
        """Take up the errors of one pass; True when a remedy was found, so that another pass may show more."""
        remedied = False
        by_path: dict[Path, list[ErrorDetails]] = {}
        for error in errors:
            by_path.setdefault(_path(error, self.data), []).append(error)
        misspelt_first = sorted(by_path.items(), key=lambda item: item[1][0]["type"] != "extra_forbidden")
        for path, here in misspelt_first:
            if here[0]["type"] == "missing" and isinstance(path[-1], str) and _value(self.data, path) is not None:
                continue  # it stood there under a misspelt name
            inner_too = any(len(other) > len(path) and other[: len(path)] == path for other in by_path)
            if inner_too and isinstance(_value(self.data, path), dict | list):
                continue  # the branch of a union that was not meant; the errors inside say what is wrong
            remedied |= self._one(path, here)
        return remedied

    def _one(self, path: Path, errors: list[ErrorDetails]) -> bool:
        kind = str(errors[0]["type"])
        value = _value(self.data, path)
        match kind:
            case "union_tag_not_found":
                return self._report(path, _missing(path, self.data))
            case "missing" if isinstance(path[-1], str) and path[-1] == errors[0]["loc"][-1]:
                return self._report(path, _missing(path, self.data))
            case "extra_forbidden":
                return self._unknown(path)
            case "value_error":
                return self._report(path, f"{str(errors[0]['msg']).removeprefix('Value error, ')}.")
            case "bool_type" if isinstance(value, Word):
                _put(self.data, path, value.switch)
                return True
            case _:
                return self._wrong(path, value)

    def _report(self, path: Path, message: str) -> bool:
        places = Places(self.origin, self.known)
        self.found.setdefault(path, (places.at(path).line, places.problem(path, message)))
        return False

    def _wrong(self, path: Path, value: Any) -> bool:
        """A value that its field does not take; remedied where it is a choice with a near name."""
        schema = schema_at(path, self.data) or {}
        if isinstance(value, dict) and kinds(schema):
            path, value = (*path, "kind"), value["kind"]
        choices = kinds(schema) or _choices(schema)
        if isinstance(value, str) and choices:
            near = nearest(value, choices)
            section = str(path[0]) if path else ""
            noun = _NOUNS.get(section) if path[-1:] == ("kind",) and len(path) <= 3 else None
            what = f"is not {noun}" if noun else "is not allowed"
            may_be = allowed(schema) if "anyOf" in schema else listed(choices)
            self._report(path, f'"{value}" {what}.{did_you_mean(value, choices)} Allowed: {may_be}.')
            if near is not None:
                _put(self.data, path, near)
            return near is not None
        return self._report(path, f"{shown(value)} is not allowed. Allowed: {allowed(schema)}.{_quotes(value, schema)}")

    def _unknown(self, path: Path) -> bool:
        """A key that its section does not know: noted, then renamed to the near field that is absent, or dropped."""
        section, key = path[:-1], str(path[-1])
        fields = fields_at(section, self.data)
        present = cast("dict[str, Any]", _value(self.data, section))
        near = nearest(key, fields)
        self._report(
            path, f"there is no such field.{_elsewhere(section, key, self.data, near)} Allowed: {listed(fields)}."
        )
        value = present.pop(key)
        if near is not None and near not in present:
            present[near] = value
            size = len(path)
            for known in [p for p in self.known if p[:size] == path]:
                self.known[(*section, near, *known[size:])] = self.known[known]
        return True


def shown(value: Any) -> str:
    """A value for a message: JSON, cut to one short line."""
    if isinstance(value, dict):
        return "a section"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _missing(path: Path, data: Any) -> str:
    section = schema_at(path, data)
    if section is not None and kinds(section) and isinstance(_value(data, path), dict):
        return f"the section needs a `kind`. Allowed: {listed(kinds(section))}."
    if section is None:
        return "is missing."
    return f"is missing. Needed: {allowed(section)}. ({str(section.get('description', '')).rstrip('.')}.)"


def _elsewhere(section: Path, key: str, data: Any, near: str | None) -> str:
    """Where a key that is unknown here is known: another kind, another section, another name."""
    plain = PLAIN_NAMES.get(key)
    if section == ("training",) and plain is not None:
        return f" What Transformers calls {key} is {plain} here."
    if near is not None:
        return f' Did you mean "{near}"?'
    definitions = cast("dict[str, dict[str, Any]]", recipe_schema()["$defs"])
    around = _value(data, section)
    kind = around.get("kind") if isinstance(around, dict) else None
    own = schema_at(section, data) or {}
    union = schema_at(section, _without_kind(data, section)) or {}
    for other in kinds(union) if kind is not None else []:
        reference = str(union["discriminator"]["mapping"][other]).rpartition("/")[2]
        if definitions[reference] is not own and key in definitions[reference]["properties"] and other != kind:
            return f" It belongs to kind {other}."
    for name, field in cast("dict[str, dict[str, Any]]", recipe_schema()["properties"]).items():
        reference = str(field.get("$ref", "")).rpartition("/")[2]
        if (name,) != section and reference and key in definitions[reference]["properties"]:
            return f" It belongs to the section {name}."
    if section and key in recipe_schema()["properties"]:
        return f" {key} is a section of its own: indent it less."
    return ' Other fields of TrainingArguments go under "extra".' if section == ("training",) else ""


def _without_kind(data: Any, section: Path) -> Any:
    copy = deepcopy(data)
    around = _value(copy, section)
    if isinstance(around, dict):
        cast("dict[str, Any]", around).pop("kind", None)
    return copy


def _choices(schema: dict[str, Any]) -> list[str]:
    """The names that a field chooses from, also where a union holds other things besides."""
    if "enum" in schema or "const" in schema:
        return [str(value) for value in schema.get("enum", [schema.get("const")])]
    return [name for branch in schema.get("anyOf", []) for name in _choices(cast("dict[str, Any]", branch))]


def _quotes(value: Any, schema: dict[str, Any]) -> str:
    types = {schema.get("type")} | {branch.get("type") for branch in schema.get("anyOf", [])}
    if "string" in types and isinstance(value, bool | int | float) and "boolean" not in types:
        written = str(value).lower() if isinstance(value, bool) else str(value)
        return f' Text goes in quotes: "{written}".'
    if isinstance(value, str) and types & {"number", "integer", "boolean"} and not isinstance(value, Word):
        try:
            float(value)
        except ValueError:
            return ""
        return f" Numbers go without quotes: {value}."
    most = max((branch.get("maximum", 0) for branch in (schema, *schema.get("anyOf", []))), default=0)
    if isinstance(value, int | float) and most == 1 and 1 < value <= 100:
        return f" {value:g} % is written {value / 100:g}."
    return ""


def _path(error: ErrorDetails, data: Any) -> Path:
    """Path of an error in the data: pydantic's location without the names of union branches."""
    path: Path = ()
    here = data
    at_kind = True
    last = len(error["loc"]) - 1
    for position, part in enumerate(error["loc"]):
        if isinstance(here, dict):
            section = cast("dict[str, Any]", here)
            if at_kind and section.get("kind") == part and position < last:
                at_kind = False
                continue
            if part in section or (position == last and error["type"] == "missing"):
                path, here, at_kind = (*path, part), section.get(str(part)), True
        elif isinstance(here, list) and isinstance(part, int) and part < len(cast("list[Any]", here)):
            path, here, at_kind = (*path, part), cast("list[Any]", here)[part], True
    return path


def _value(data: Any, path: Path) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _put(data: Any, path: Path, value: Any) -> None:
    _value(data, path[:-1])[path[-1]] = value


def _walk(data: Any) -> list[Any]:
    inner = list(data.values()) if isinstance(data, dict) else data if isinstance(data, list) else []
    return [data, *(deep for value in cast("list[Any]", inner) for deep in _walk(value))]


def _switches(value: Any) -> Any:
    match value:
        case Word():
            return value.switch
        case dict():
            return {key: _switches(inner) for key, inner in cast("dict[str, Any]", value).items()}
        case list():
            return [_switches(inner) for inner in cast("list[Any]", value)]
        case _:
            return value


def _plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


__all__ = ["dotted", "shown", "validate"]
