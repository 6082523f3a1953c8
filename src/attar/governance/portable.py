"""Names without this machine's folders: what a record may say of paths before it leaves the machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, cast

from attar.facts import RunFacts

_PATHS = ("model", "source", "path")
"""Keys of a recipe whose values may be paths, at any depth."""
_FREE = ("extra", "config")
"""Sections of a recipe with keys of someone else's choosing, any of whose values may be a path."""
_SENTENCES = ("teacher", "student", "control", "refused", "policy", "lineage", "warnings")
"""Parts of a record that may name files in sentences. Labels and rows of the data are not ours to change."""


def portable(name: str) -> str:
    """A source's name without this machine's folders: an absolute or home path is cut to its last part."""
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute() or name.startswith("~"):
            return path.name
    return name


def portable_record(facts: RunFacts, out: Path) -> RunFacts:
    """A run's record where the recipe's absolute paths are cut to their last part, wherever they are named.

    Paths below the run's folder `out` become relative to it.
    """
    cuts = {f"{folder}/": "" for folder in (out.absolute(), out.resolve())}

    def cut(name: str) -> str:
        short = portable(name)
        if short != name:
            cuts.update({name: short, str(Path(name).expanduser().resolve()): short})
        return short

    def reword(text: str) -> str:
        for long in sorted(cuts, key=len, reverse=True):
            text = re.sub(
                rf"(?<![\w/.-]){re.escape(long)}(?![\w-])" if cuts[long] else re.escape(long), cuts[long], text
            )
        return text

    plain = facts.model_dump()
    for name in (facts.teacher.name, facts.policy.teacher, *(member.name for member in facts.policy.members)):
        cut(name)
    plain["recipe"] = _in_recipe(plain["recipe"], cut)
    plain |= {name: _everywhere(plain[name], reword) for name in _SENTENCES}
    plain["data"]["notes"] = _everywhere(plain["data"]["notes"], reword)
    return RunFacts.model_validate(plain)


def _in_recipe(value: Any, cut: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {
            key: _everywhere(inner, cut)
            if key in _FREE or (key in _PATHS and isinstance(inner, str))
            else _in_recipe(inner, cut)
            for key, inner in fields.items()
        }
    return [_in_recipe(inner, cut) for inner in cast("list[Any]", value)] if isinstance(value, list) else value


def _everywhere(value: Any, change: Callable[[str], str]) -> Any:
    """The value with `change` done to each string in it; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _everywhere(inner, change) for key, inner in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_everywhere(inner, change) for inner in cast("list[Any]", value)]
    return value
