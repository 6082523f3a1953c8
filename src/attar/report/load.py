"""Read `run.json` back, or say clearly why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from attar.errors import AttarError
from attar.facts import SCHEMA_VERSION, ArtifactFacts, RunFacts
from attar.hashing import sha256

NAME = "run.json"
_SHOWN = 5


def load_whole(path: Path) -> RunFacts:
    """As `load_run`, for those who speak of the student or use it: its files are those that the record speaks of.

    Raises AttarError that names each file that is absent or was changed since.
    """
    facts, folder = load_run(path), path if path.is_dir() else path.parent
    wrong = [name for name, found in facts.files.items() if not _is(folder / name, found)]
    if wrong:
        raise AttarError(
            f"{folder}: not as {NAME} has it: {', '.join(wrong)}. Run `attar distill` again; finished stages are kept."
        )
    return facts


def require_artifact(folder: Path, artifact: ArtifactFacts) -> Path:
    """The folder of an exported file, which is the one that the record speaks of. Raises AttarError."""
    place = folder / artifact.path
    wrong = [name for name, found in artifact.files.items() if not _is(place / name, found)]
    if not any(_is(file, artifact.sha256) for file in place.rglob("model*")):
        wrong = ["its model"]
    if wrong:
        raise AttarError(
            f"{place}: {', '.join(wrong)} is not as {NAME} has it. Run `attar distill` again; finished stages are kept."
        )
    return place


def load_run(path: Path) -> RunFacts:
    """The facts of a run, from its folder or from its `run.json`. Raises AttarError: absent, damaged, or newer."""
    file = path / NAME if path.is_dir() or path.suffix != ".json" else path
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise AttarError(f"{file}: there is no such file. Is it a run's folder, and did its run finish?") from None
    except OSError as error:
        raise AttarError(f"{file}: cannot be read: {error.strerror}.") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise AttarError(
            f"{file}: is not JSON ({error}). Run `attar distill` again; finished stages are kept."
        ) from None
    if not isinstance(content, dict):
        raise AttarError(f"{file}: is not a run's record (a JSON object was expected).")
    version = cast("dict[str, Any]", content).get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise AttarError(
            f"{file}: written by a newer attar (schema {version}; this one reads {SCHEMA_VERSION}). Upgrade attar."
        )
    try:
        return RunFacts.model_validate(content)
    except ValidationError as error:
        problems = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise AttarError(
            f"{file}: is not a run's record, or was edited:\n" + "\n".join(problems[:_SHOWN]) + more + "\n"
            "Run `attar distill` again; finished stages are kept."
        ) from None


def _is(file: Path, found: str) -> bool:
    return file.is_file() and sha256(file) == found
