"""The recipe's JSON Schema: for editors, and as the one source of what a message says is allowed."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from attar.recipe import Recipe
from attar.recipe.nearest import listed
from attar.recipe.places import Path

Schema = dict[str, Any]

_RECORDED = {"python"}
"""Kinds that only a record holds."""


def recipe_schema() -> Schema:
    """JSON Schema (2020-12) of a recipe, with a title and a description for each field."""
    schema: Schema = Recipe.model_json_schema()
    for section in cast("dict[str, Schema]", schema["$defs"]).values():
        kind = section.get("properties", {}).get("kind")
        if kind is not None:
            kind.setdefault("description", section.get("description", ""))
    for name, field in [*_fields(schema), *(pair for section in schema["$defs"].values() for pair in _fields(section))]:
        field.setdefault("title", name.replace("_", " ").capitalize())
        if "description" not in field and "$ref" in field:  # pydantic leaves out what the section itself says
            field["description"] = schema["$defs"][str(field["$ref"]).rpartition("/")[2]]["description"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "attar recipe"}


@cache
def _schema() -> Schema:
    return recipe_schema()


def schema_at(path: Path, data: Any) -> Schema | None:
    """Schema of the value at `path`; `data` (the whole recipe) tells which kind a section is. None: no such field."""
    schema = _resolve(_schema(), data)
    here = data
    for part in path:
        here = _step(here, part)
        if isinstance(part, int):
            inner = _items(schema, part)
        else:
            inner = schema.get("properties", {}).get(part) or _other_keys(schema)
        if inner is None:
            return None
        schema = _resolve(inner, here)
    return schema


def fields_at(path: Path, data: Any) -> list[str]:
    """Names of the fields of the section at `path`; empty where it is not a section."""
    schema = schema_at(path, data)
    return [] if schema is None else list(schema.get("properties", {}))


def kinds(schema: Schema) -> list[str]:
    """Kinds that one may write for a section; empty where it has no kinds."""
    return [kind for kind in schema.get("discriminator", {}).get("mapping", {}) if kind not in _RECORDED]


def allowed(schema: Schema) -> str:
    """What a schema allows, in words: `a whole number of at least 1`."""
    if "$ref" in schema:
        return allowed(_follow(schema))
    choices = cast("list[Schema] | None", schema.get("anyOf"))
    if choices is not None:
        return " or ".join(dict.fromkeys(allowed(choice) for choice in choices))
    if kinds(schema):
        return f"a section of one of the kinds {listed(kinds(schema))}"
    if "const" in schema or "enum" in schema:
        return listed(str(value) for value in schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "integer":
            return "a whole number" + _range(schema)
        case "number":
            return "a number" + _range(schema)
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "array":
            return _array(schema)
        case "object":
            names = list(schema.get("properties", {}))
            return f"a section with {listed(names)}" if names else "a section of names and values"
        case "string":
            examples = cast("list[str]", schema.get("examples", []))
            some = f" such as {listed(examples)}" if examples else ""
            return "text" + (" that is not empty" if schema.get("minLength") and not some else some)
        case _:
            return "any value"


def _fields(section: Schema) -> list[tuple[str, Schema]]:
    return list(section.get("properties", {}).items())


def _array(schema: Schema) -> str:
    prefix = cast("list[Schema] | None", schema.get("prefixItems"))
    if prefix is not None:
        return f"a list of {len(prefix)} values, each {allowed(prefix[0])}"
    size = f" of at least {schema['minItems']}" if "minItems" in schema else ""
    return f"a list{size}, each entry {allowed(cast('Schema', schema.get('items', {})))}"


def _range(schema: Schema) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    parts: list[str] = []
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    if low is not None:
        parts.append(f"at least {low:g}")
    if above is not None:
        parts.append(f"above {above:g}")
    if high is not None:
        parts.append(f"at most {high:g}")
    if below is not None:
        parts.append(f"below {below:g}")
    return (" of " if low is not None else " ") + " and ".join(parts) if parts else ""


def _follow(schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = cast("Schema", _schema()["$defs"][str(schema["$ref"]).rpartition("/")[2]])
    return schema


def _resolve(schema: Schema, data: Any) -> Schema:
    """Follow references, and of a union the branch that `data` is of (else the union itself)."""
    schema = _follow(schema)
    mapping = cast("dict[str, str]", schema.get("discriminator", {}).get("mapping", {}))
    kind = _step(data, "kind")
    if isinstance(kind, str) and kind in mapping:
        return _follow({"$ref": mapping[kind]})
    branches = [_follow(branch) for branch in cast("list[Schema]", schema.get("anyOf", []))]
    wanted = "object" if isinstance(data, dict) else "array" if isinstance(data, list) else None
    fitting = [branch for branch in branches if branch.get("type") == wanted] if wanted else []
    return fitting[0] if fitting else schema


def _items(schema: Schema, position: int) -> Schema | None:
    prefix = cast("list[Schema]", schema.get("prefixItems", []))
    if position < len(prefix):
        return prefix[position]
    items = schema.get("items")
    return cast("Schema", items) if isinstance(items, dict) else None


def _other_keys(schema: Schema) -> Schema | None:
    other = schema.get("additionalProperties")
    return cast("Schema", other) if isinstance(other, dict) else None


def _step(data: Any, part: str | int) -> Any:
    try:
        return data[part]
    except (KeyError, IndexError, TypeError):
        return None
