"""The house: a file imports only from lower floors or from its own folder, and stays small enough to read."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "attar"
FLOORS = [
    {"errors", "gguf_header", "hashing", "head_families", "known", "facts", "storage", "version"},
    {"recipe"},
    {
        "plan",
        "data",
        "devices",
        "logits",
        "mixture",
        "heads",
        "hooks",
        "packing",
        "precision",
        "signals",
        "identity",
        "answers",
        "ranks",
        "tasks",
    },
    {"objectives", "teachers", "students", "generation"},
    {"training", "evaluation", "export", "governance", "testing"},
    {"report", "bench"},
    {
        "run",
        "shortage",
        "ground",
        "judges",
        "language_store",
        "answer_judge",
        "answered",
        "fine_tuning",
        "layer_choice",
        "preparing",
        "ready_teachers",
        "row_store",
        "teacher_writes",
        "seeds",
        "exports",
        "certify",
        "stages",
        "handover",
        "token_forms",
        "finished",
        "page",
        "account",
        "spending",
        "bench_sides",
        "benching",
    },
    {"cli", "cli_store", "cli_bench", "terminal", "door", "server", "__init__", "__main__"},
]
FLOOR = {part: level for level, parts in enumerate(FLOORS) for part in parts}
MODULES = sorted(p for p in SOURCE.rglob("*.py"))
MAX_LINES = 400


def part_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports_of(path: Path) -> list[str]:
    """First part below `attar` of all that a file imports from attar, also inside functions and TYPE_CHECKING."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] == "attar"]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module and node.module.split(".")[0] == "attar":
                found += [f"{node.module}.{a.name}" if node.module == "attar" else node.module for a in node.names]
    return [name.split(".")[1] if "." in name else "__init__" for name in found]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_imports_only_from_below(path: Path) -> None:
    own = part_of(path)
    assert own in FLOOR, f"{own} stands on no floor; give it one in {Path(__file__).name}"
    for other in imports_of(path):
        other = "version" if other == "__version__" else other
        assert other in FLOOR, f"{path.name} imports attar.{other}, which stands on no floor"
        assert (
            other == own
            or FLOOR[other] < FLOOR[own]
            or (FLOOR[other] == FLOOR[own] and path.parent == SOURCE and (SOURCE / f"{other}.py").exists())
        ), f"{path.relative_to(SOURCE)} (floor {FLOOR[own]}) must not import attar.{other} (floor {FLOOR[other]})"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_can_be_held_in_the_head(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{path.relative_to(SOURCE)} has {lines} lines"
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}


@pytest.mark.parametrize(
    "module", ["attar", "attar.errors", "attar.facts", "attar.recipe", "attar.recipe.load", "attar.plan", "attar.cli"]
)
def test_light_modules_import_no_heavy_package(module: str) -> None:
    code = (
        f"import sys, {module}; heavy = {{'torch', 'transformers', 'datasets', 'sklearn', 'scipy'}} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
