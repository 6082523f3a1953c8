"""A recipe from a file or from plain data, and back. Every problem of a recipe is raised at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from attar.errors import RecipeError
from attar.recipe import Recipe
from attar.recipe.nearest import did_you_mean
from attar.recipe.overrides import apply
from attar.recipe.places import Places
from attar.recipe.problems import shown, validate
from attar.recipe.text import MAX_BYTES, parse, write

_SUFFIXES = (".yaml", ".yml")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `overrides` of the form `training.epochs=3` laid over it.

    Raises RecipeError that lists every problem of the file and of the overrides, each with file:line (or its `--set`),
    path, value, what is allowed, and the nearest name.
    """
    origin = str(path)
    parsed = parse(_read(Path(path)), origin)
    if parsed.data is None and not parsed.problems:
        raise RecipeError(f"{origin}:1  the file is empty. `attar init` writes a commented recipe to start from.")
    if parsed.data is not None and not isinstance(parsed.data, dict):
        what = "a list" if isinstance(parsed.data, list) else shown(parsed.data)
        message = f"a recipe is a set of sections such as `task:` and `teacher:`, not {what}."
        raise RecipeError([*(text for _, text in parsed.problems), f"{origin}:1  {message}"])
    if parsed.data is None:
        raise RecipeError([text for _, text in parsed.problems])
    data = cast("dict[str, Any]", parsed.data)
    places, wrong_sets = apply(data, parsed.places, overrides)
    recipe, problems = validate(data, places)
    ordered = sorted([*parsed.problems, *problems], key=lambda problem: problem[0] or 1 << 30)
    messages = [text for _, text in ordered] + wrong_sets
    if messages or recipe is None:
        raise RecipeError(messages)
    return recipe.located(places)


def recipe_from(data: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """The recipe that plain data describes (sections as in YAML; tuples and Paths are allowed).

    Raises RecipeError that lists every problem; `origin` stands where a file's name would.
    """
    places = Places(origin)
    try:
        recipe, problems = validate(dict(data), places)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{origin}  a recipe holds text, numbers, lists and sections only: {error}.") from error
    if recipe is None:
        raise RecipeError([text for _, text in problems])
    return recipe.located(places)


def dump_recipe(recipe: Recipe) -> str:
    """YAML of a recipe with every default spelled out; `load_recipe` reads an equal recipe back."""
    return write(recipe.model_dump(mode="json"))


def _read(path: Path) -> str:
    """The file's text. Raises RecipeError where there is no readable text of a sensible size."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(f"{path}  there is no such file.{_neighbour(path)}") from None
    except IsADirectoryError:
        inner = path / "recipe.yaml"
        advice = f"Did you mean {inner}?" if inner.is_file() else "Give the recipe's file."
        raise RecipeError(f"{path}  is a folder. {advice}") from None
    except OSError as error:
        raise RecipeError(f"{path}  cannot be read: {error.strerror}.") from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(
            f"{path}  is larger than {MAX_BYTES // 1024} KB. A recipe is a short text: is it the right file?"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}  is not UTF-8 text. Is it the right file? Save it as UTF-8.") from error
    if "\0" in text:
        raise RecipeError(f"{path}:1  is a binary file, not a recipe.")
    return text


def _neighbour(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either."
    names = sorted(p.name for p in path.parent.iterdir() if p.suffix in _SUFFIXES)
    return did_you_mean(path.name, names) or " `attar init` writes a commented recipe."
