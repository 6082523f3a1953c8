"""Content hashes: one canonical form for values, files and folders. Short: the first 16 hex digits of a SHA-256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

DIGITS = 16
_BLOCK = 1 << 20


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; floats as Python's shortest repr. Equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def hash_value(value: Any) -> str:
    """Hash of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:DIGITS]


def hash_bytes(*parts: bytes) -> str:
    """Hash of byte strings, each prefixed with its length so that no two splits collide."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:DIGITS]


def hash_file(path: Path) -> str:
    """Hash of a file's bytes, read in blocks."""
    return sha256(path)[:DIGITS]


def sha256(path: Path) -> str:
    """The whole SHA-256 of a file's bytes, 64 hex digits, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hash_folder(folder: Path, besides: str | None = None) -> str:
    """Hash of every file below a folder, with its relative path; hidden files are left out, and one more by name."""
    return hash_value([[path, hash_file(folder / path)] for path in files_below(folder, besides)])


def files_below(folder: Path, besides: str | None = None) -> list[str]:
    """Relative paths of the files below a folder, sorted; hidden files are left out, and one more by name."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != besides)
    return [p.relative_to(folder).as_posix() for p in files]
