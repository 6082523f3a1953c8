"""`report.html`: one file that asks the network for nothing and runs no script; its content security policy says so."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from attar.facts import RunFacts
from attar.report import details, losses, overview, record
from attar.report.energy import energy
from attar.report.headline import sentence
from attar.report.markup import Html, join, tag
from attar.report.written import written
from attar.storage import atomic_write
from attar.version import __version__

_CONTENTS = {
    "models": "Models",
    "gain": "Gain",
    "written": "Answers",
    "budget": "Budget",
    "seeds": "Seeds",
    "losses": "Where it lost",
    "examples": "Examples",
    "training": "Training",
    "calibration": "Calibration",
    "exports": "Exports",
    "energy": "Energy",
    "policy": "Terms",
    "conditions": "Conditions",
    "lineage": "Lineage",
    "stages": "Stages",
    "recipe": "Recipe",
}


def write_report(run: RunFacts, path: Path) -> None:
    """Write the report of a run, whole or not at all. Raises StorageError."""
    atomic_write(path, render(run))


def render(run: RunFacts) -> str:
    """The report as text of an HTML file."""
    section = run.recipe.get("report")
    title = (section.get("title") if isinstance(section, dict) else None) or run.name
    parts = {
        "models": overview.models(run),
        "gain": overview.gain(run),
        "written": written(run),
        "budget": overview.budget(run),
        "seeds": details.seeds(run),
        "losses": losses.losses(run),
        "examples": losses.examples(run),
        "training": details.training(run),
        "calibration": details.calibration(run),
        "exports": details.parity(run),
        "energy": energy(run),
        "policy": record.policy(run),
        "conditions": record.conditions(run),
        "lineage": record.lineage(run),
        "stages": record.stages(run),
        "recipe": record.recipe(run),
    }
    links = [tag("a", _CONTENTS[name], href=f"#{name}") for name, part in parts.items() if part is not None]
    body = [
        tag("a", "Skip to the report", href="#report", class_="skip"),
        overview.header(run, str(title)),
        overview.notices(run),
        tag("nav", links, aria_label="Contents"),
        tag("main", list(parts.values()), id="report"),
        tag(
            "footer",
            f"Made by attar {__version__} from run.json on {run.lineage.created[:10]}. Nothing here was guessed.",
        ),
    ]
    return document(f"{title} \u2013 attar report", sentence(run), body)


def document(title: str, description: str, body: Sequence[Html | None]) -> str:
    """A whole page in the report's style, which runs no script and asks the network for nothing."""
    style = files("attar.report").joinpath("style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    allowed = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=allowed),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="description", content=description),
        tag("title", title),
        tag("style", Html(style)),
    )
    return join(Html("<!doctype html>\n"), tag("html", head, tag("body", body), lang="en")) + "\n"
