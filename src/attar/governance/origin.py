"""Which model, under which licence: the teacher, and what a student starts from; by model cards and package data."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any, assert_never, cast

import yaml

from attar.recipe.sources import find_source
from attar.recipe.student import PretrainedSpec, StudentSpec
from attar.recipe.teacher import LocalTeacherSpec, StoredTeacherSpec

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)
_CARD_BYTES = 1 << 20
_LONGEST_ID = 64
_CLASSIFIER = "License :: OSI Approved :: "


def teacher_origin(spec: LocalTeacherSpec | StoredTeacherSpec, *, fetch: bool = False) -> tuple[str, str | None]:
    """Name and licence of the teacher; the licence is None where none is stated. `fetch`: a Hub card may be downloaded.

    Raises TeacherError or MissingExtra where the recipe names something that is not there.
    """
    match spec:
        case LocalTeacherSpec():
            return ("config", None) if spec.model is None else _model(spec.model, spec.revision, fetch)
        case StoredTeacherSpec():
            return _stored(Path(spec.path))
    assert_never(spec)


def start_origin(spec: StudentSpec, *, fetch: bool = False) -> tuple[str, str | None] | None:
    """As `teacher_origin`, of the model that a pretrained student starts from; None where it starts from no other model
    than the teacher, or from one that was handed over.
    """
    if not isinstance(spec, PretrainedSpec) or spec.model == "python":
        return None
    return _model(spec.model, spec.revision, fetch)


def find_licence(folder: Path | None, package: str | None) -> str | None:
    """The licence that a model states: on the folder's README.md, else in the pip package's metadata, else None.

    `license: other` gives the card's `license_name`. The card goes first: a package may carry someone else's weights.
    """
    found = _card_licence(folder / "README.md") if folder is not None else None
    return found or (_package_licence(package) if package is not None else None)


def _model(model: str, revision: str | None, fetch: bool) -> tuple[str, str | None]:
    found = find_source(model, "model")
    match found.kind:
        case "python":
            return "python object", None
        case "hub":
            return found.name, _hub_licence(found.name, revision, fetch)
        case "timm":
            return model, _hub_licence(f"timm/{found.name.removeprefix('timm/')}", None, fetch)
        case "package":
            package = model.removeprefix("package:").partition("/")[0]
            return found.name, find_licence(found.path, package)
        case "folder" | "file" | "embedded":
            return found.name, find_licence(found.path, None)
    assert_never(found.kind)


def _stored(path: Path) -> tuple[str, str | None]:
    """What a store's manifest says of its teacher; ("stored signals", None) where it says nothing."""
    places = [path, path / "signals", path / "store" / "signals"]
    manifests = [m for place in places for m in (place / "manifest.json", *sorted(place.glob("*/manifest.json")))]
    for manifest in manifests:
        try:
            source: dict[str, Any] = json.loads(manifest.read_bytes())["about"]["source"]
            return str(source["name"]), cast("str | None", source["licence"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return "stored signals", None


def _hub_licence(repository: str, revision: str | None, fetch: bool) -> str | None:
    """The licence on a Hub model's card: from the local cache, or with `fetch` from the Hub."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, "README.md", revision=revision)
    if isinstance(cached, str):
        return _card_licence(Path(cached))
    if not fetch:
        return None
    try:
        return _card_licence(Path(hf_hub_download(repository, "README.md", revision=revision)))
    except (OSError, ValueError):  # huggingface_hub's errors derive from these: offline, no such model, no card
        return None


def _card_licence(card: Path) -> str | None:
    try:
        with card.open("rb") as stream:
            text = stream.read(_CARD_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return None
    match = _FRONT_MATTER.match(text.removeprefix("\ufeff").replace("\r\n", "\n"))
    if match is None:
        return None
    try:
        head = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return None
    if not isinstance(head, dict):
        return None
    front = cast("dict[str, Any]", head)
    stated = front.get("license") or front.get("licence")
    if stated == "other":
        stated = front.get("license_name")
    if isinstance(stated, list):
        stated = " AND ".join(str(one) for one in cast("list[Any]", stated))
    return str(stated) if stated else None


def _package_licence(package: str) -> str | None:
    try:
        found = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return None
    fields = found.json
    for key in ("license_expression", "license"):
        stated = fields.get(key)
        if isinstance(stated, str) and "\n" not in stated and 0 < len(stated.strip()) <= _LONGEST_ID:
            return stated.strip()
    classifiers = [c.removeprefix(_CLASSIFIER) for c in fields.get("classifier", []) if c.startswith(_CLASSIFIER)]
    return classifiers[0] if len(classifiers) == 1 else None
