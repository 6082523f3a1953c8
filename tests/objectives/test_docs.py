"""docs/objectives.md is true: its code runs, its tables are those of the code, its traps are those of the tests."""

from __future__ import annotations

import inspect
import re
import runpy
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_args

import pytest
import yaml
from pydantic import TypeAdapter

from attar.data import traces
from attar.objectives import (
    crosstoken,
    embedding,
    feature,
    relation,
    response,
    sequence,
    sparse,
    supervised,
    threshold_sampling,
    transform,
)
from attar.objectives.reduction import rows as reduction
from attar.objectives.terms import attention, hidden, maps, relations
from attar.objectives.terms.logits import logit_term
from attar.recipe.objectives import AnyObjectiveSpec, LayeredSpec, ObjectiveSpec
from attar.recipe.rollouts import RolloutsSpec
from attar.recipe.training import TrainingSpec

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "objectives.md"
TEXT = PAGE.read_text(encoding="utf-8")
FAMILIES = (
    response,
    supervised,
    transform,
    sparse,
    threshold_sampling,
    crosstoken,
    feature,
    relation,
    embedding,
    sequence,
    traces,
)
PARTS = (attention, hidden, maps, relations)
SHARED_PARTS = {sparse.cells, sparse.log_sum_exp, sparse.log1mexp, supervised.require_labels}
"""Pieces that families share: nobody chooses between them."""
OF_ALL_ALIKE = {"kind", "weight", "temperature", "standardise", "layers", "pool", "across_families"}
"""Options that a family shares, told above its table."""


def test_code_blocks_run_in_order() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "own_objective.py"))
    assert capsys.readouterr().out == "hellinger keeps the laws\n"


def test_recipes_are_recipes() -> None:
    found: dict[str, Any] = {}
    for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL):
        found |= yaml.safe_load(block)
    TypeAdapter(list[AnyObjectiveSpec]).validate_python(found.pop("objectives"))
    TrainingSpec(**found.pop("training"))
    RolloutsSpec(**found.pop("rollouts"))
    assert not found


# The tables.


class Row(NamedTuple):
    """One row of a table."""

    names: tuple[str, ...]
    is_a: str
    """kind, function, option, or tool."""
    kind: str | None
    options: frozenset[str]
    marks: frozenset[str]
    """labels, batch."""
    sources: tuple[str, ...]


def row_of(line: str) -> Row:
    first, where, _, source, *_ = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
    outside, options = parted(first)
    what, *marks = where.split("; ")
    renamed, own_options = parted(what)
    is_a = what.split(" ")[0]
    kind = (renamed or outside)[0] if is_a == "kind" else None
    assert is_a in {"kind", "function", "option", "tool"}, line
    sources = tuple(re.findall(r"\d{4}\.\d{5}|1[45]\d\d\.\d{4,5}", source))
    return Row(tuple(outside), is_a, kind, frozenset(own_options or options), frozenset(marks), sources)


def parted(cell: str) -> tuple[list[str], list[str]]:
    """Names outside and inside of parentheses."""
    outside, _, inside = cell.partition("(")
    return re.findall(r"`(\w+)`", outside), re.findall(r"`(\w+)`", inside)


def rows() -> list[Row]:
    tables = re.findall(r"^\| \| in a recipe \|.*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    return [row_of(line) for table in tables for line in table.splitlines()]


ROWS = rows()
SPECS: dict[str, type[ObjectiveSpec]] = {
    get_args(spec.model_fields["kind"].annotation)[0]: spec for spec in get_args(get_args(AnyObjectiveSpec)[0])
}
KINDS = [row for row in ROWS if row.kind]
of_kinds = pytest.mark.parametrize("row", KINDS, ids=[str(row.kind) for row in KINDS])


def public(module: ModuleType) -> Iterable[Any]:
    """What a family shows: its `__all__`, or the functions and classes that it defines itself."""
    if hasattr(module, "__all__"):
        return [getattr(module, name) for name in module.__all__]
    found = [value for name, value in vars(module).items() if not name.startswith("_")]
    return [
        one for one in found if (inspect.isfunction(one) or inspect.isclass(one)) and one.__module__ == module.__name__
    ]


NAMED: dict[str, Any] = {one.__name__: one for family in FAMILIES for one in public(family) if one not in SHARED_PARTS}


def test_every_kind_of_the_recipe_has_one_row() -> None:
    assert Counter(row.kind for row in KINDS) == Counter(list(SPECS))


def test_every_public_function_of_the_families_has_one_row() -> None:
    assert Counter(name for row in ROWS for name in row.names) == Counter(list(NAMED))


@of_kinds
def test_options_and_marks_are_those_of_the_spec(row: Row) -> None:
    spec = SPECS[str(row.kind)]
    shared = OF_ALL_ALIKE - {name for name in row.options if name in vars(spec).get("__annotations__", {})}
    assert row.options == spec.model_fields.keys() - shared
    expected = {"labels": spec.needs_labels, "batch": spec.form == "batch"}
    assert row.marks == {mark for mark, holds in expected.items() if holds}


@pytest.mark.parametrize("row", [row for row in ROWS if row.is_a == "function"], ids=lambda row: row.names[0])
def test_options_of_functions_are_in_their_signature(row: Row) -> None:
    assert row.kind is None
    for name in row.names:
        assert row.options <= inspect.signature(NAMED[name]).parameters.keys()


def test_an_option_is_one_of_the_recipe() -> None:
    (row,) = (row for row in ROWS if row.is_a == "option")
    assert row.names == ("standardise_logits",)
    assert "standardise" in SPECS["forward_kl"].model_fields


@of_kinds
def test_the_functions_of_a_kind_are_what_it_trains_on(row: Row) -> None:
    spec = SPECS[str(row.kind)](kind=row.kind)
    if isinstance(spec, LayeredSpec):
        source = "".join(inspect.getsource(module) for module in PARTS)
        assert all(re.search(rf"\b{name}\b", source) for name in row.names)
        return
    function: Callable[..., Any] = logit_term("term", spec, "single_label", place="here").row.function
    while isinstance(function, partial):
        function = function.func
    told = f"`{function.__name__}` {function.__doc__}"
    assert any(f"`{name}`" in told for name in row.names)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.names[0])
def test_sources_are_those_of_the_docstrings(row: Row) -> None:
    told = "".join(str(part.__doc__) for name in row.names for part in (NAMED[name], inspect.getmodule(NAMED[name])))
    assert all(source in told for source in row.sources)


# What else is told.


def test_every_trap_stands_in_one_line() -> None:
    listed = re.findall(r"test_trap_\w+", TEXT.replace("`grep -r test_trap_ tests`", ""))
    files = (ROOT / "tests").rglob("test_*.py")
    held = [name for file in files for name in re.findall(r"def (test_trap_\w+)", file.read_text(encoding="utf-8"))]
    assert Counter(listed) == Counter(held)
    lines = [line for line in TEXT.splitlines() if "<!-- test_trap_" in line]
    assert all(re.fullmatch(r"- [^<]+\. <!-- (test_trap_\w+ )+-->", line) for line in lines)


def test_a_block_and_a_tile_are_as_large_as_told() -> None:
    block, tile = (f"{4 * numbers / 1e6:.0f} MB" for numbers in (reduction._BLOCK, reduction._TILE))
    assert f"({block} of float32), worked on in tiles ({tile})" in TEXT


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target[1:] in headings if target.startswith("#") else (PAGE.parent / target).is_file(), target
