"""What a run hands over beside its files: record, recipe, report and card; withdrawn before those files change."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from attar.errors import ExportError, ParityError
from attar.facts import RunFacts
from attar.hashing import files_below, sha256
from attar.recipe import Recipe
from attar.recipe.load import dump_recipe
from attar.report.card import model_card
from attar.report.html import write_report
from attar.report.load import NAME as RECORD
from attar.stages import CARD
from attar.storage import atomic_write, guard

RECIPE, REPORT = "recipe.yaml", "report.html"
STUDENT = "student"
_CONTROLS = ("control", "control_random")


def write(facts: RunFacts, recipe: Recipe, out: Path) -> None:
    """Recipe and record together, then what is made from the record: the report and the student's card."""
    atomic_write(out / RECIPE, dump_recipe(recipe))
    atomic_write(out / RECORD, facts.model_dump_json(indent=1))
    write_report(facts, out / REPORT)
    atomic_write(out / STUDENT / CARD, model_card(facts))


def withdraw(out: Path) -> None:
    """Take back what was said of models that are about to be replaced: a proof never stands beside other weights."""
    with guard(out):
        for place in (out / RECORD, out / RECIPE, out / REPORT, out / STUDENT / CARD):
            place.unlink(missing_ok=True)


def sweep(folder: Path, roles: Collection[str], exports: Collection[str]) -> None:
    """Remove controls and exports that no recipe asks for any more; `exports` are names below `export/`."""
    old = [folder / role for role in _CONTROLS if role not in roles]
    old += [place for place in folder.glob("export/*") if place.name not in exports]
    with guard(folder):
        for place in old:
            if place.is_dir():
                shutil.rmtree(place)


def student_files(out: Path) -> dict[str, str]:
    """SHA-256 of each file of the student, by its path below `out`; the card apart."""
    return {f"{STUDENT}/{name}": sha256(out / STUDENT / name) for name in files_below(out / STUDENT, besides=CARD)}


def require_exports(facts: RunFacts, out: Path, only: Collection[tuple[str, str]] | None = None) -> None:
    """Raise ParityError or ExportError where an export was refused; `only`: look at these kinds and precisions."""
    refused = [one for one in facts.refused if only is None or (one.kind, one.precision) in only]
    if refused:
        kind = ParityError if all(one.failed == "parity" for one in refused) else ExportError
        raise kind("\n".join([*(one.reason for one in refused), f"All else is finished: {out / REPORT}"]))
