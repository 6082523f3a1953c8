"""The tokenizers of two language models, read from their files alone and compared id by id."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from attar.gguf_header import Header
from attar.hashing import hash_bytes
from attar.plan.checkpoint import Checkpoint

ROLES = ("bos", "eos", "pad")
_GGUF_ROLES = {"bos": "bos", "eos": "eos", "pad": "padding"}
_AROUND = 24


@dataclass(frozen=True)
class Tokenizer:
    """What a model's files say of its tokenizer."""

    tokens: dict[int, str]
    """By id."""
    special: dict[str, str | None]
    """The begin, end and padding tokens, by role; None: it has none."""
    template: str | None
    """How it writes chats; None: it cannot."""
    file: Path | None = None
    """tokenizer.json, where that is what it was read from."""

    @property
    def width(self) -> int:
        """The least outputs that a head for it has."""
        return max(self.tokens, default=-1) + 1


@dataclass(frozen=True)
class Relation:
    """How the student's tokens are related to the teacher's.

    `same`: each id is the same token. `moved`: the same tokens, some under other ids. `fewer`: tokens of the teacher,
    not all. `other`: some are unknown to the teacher. `unknown`: one side cannot be seen from here.
    """

    kind: Literal["same", "moved", "fewer", "other", "unknown"]
    first: str = ""
    """The first id that differs, with both tokens."""
    strangers: int = 0
    """Tokens that the teacher does not know."""


def compare(student: Tokenizer | None, teacher: Tokenizer | None) -> Relation:
    """How two tokenizers' tokens are related, with the first id that differs."""
    if student is None or teacher is None:
        return Relation("unknown")
    ours, theirs = student.tokens, teacher.tokens
    if ours == theirs:
        return Relation("same")
    at = next(number for number in sorted({*ours, *theirs}) if ours.get(number) != theirs.get(number))
    first = f"id {at} is {_shown(ours, at)} for the student, {_shown(theirs, at)} for the teacher"
    known = set(theirs.values())
    strangers = sum(token not in known for token in ours.values())
    if strangers:
        return Relation("other", first, strangers)
    return Relation("moved" if len(ours) == len(theirs) else "fewer", first)


def first_difference(one: str, other: str) -> str:
    """Where two texts part, with what follows on either side, for people."""
    at = next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(one), len(other)) if at is None else at
    return f"character {at:,}: {one[at : at + _AROUND]!r} against {other[at : at + _AROUND]!r}"


def short_hash(template: str | None) -> str:
    """A template by its hash, for people."""
    return "none" if template is None else hash_bytes(template.encode())[:8]


def read_tokenizer(checkpoint: Checkpoint | None) -> Tokenizer | None:
    """What a model's folder or GGUF file says of its tokenizer; None where that is not there or not readable."""
    if checkpoint is None:
        return None
    if checkpoint.header is not None:
        return _of_gguf(checkpoint.header)
    return None if checkpoint.folder is None else _of_folder(checkpoint.folder)


def _of_gguf(header: Header) -> Tokenizer | None:
    tokens = header.values.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        return None
    names = cast("list[str]", tokens)
    special: dict[str, str | None] = {}
    for role, key in _GGUF_ROLES.items():
        number = header.values.get(f"tokenizer.ggml.{key}_token_id")
        special[role] = names[number] if isinstance(number, int) and 0 <= number < len(names) else None
    template = header.values.get("tokenizer.chat_template")
    return Tokenizer(dict(enumerate(names)), special, template if isinstance(template, str) else None)


def _of_folder(folder: Path) -> Tokenizer | None:
    file = folder / "tokenizer.json"
    try:
        content = json.loads(file.read_bytes())
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, dict):
            tokens = {int(number): str(token) for token, number in cast("dict[str, int]", vocabulary).items()}
        else:
            tokens = {number: str(entry[0]) for number, entry in enumerate(cast("list[list[Any]]", vocabulary))}
        tokens |= {int(token["id"]): str(token["content"]) for token in content.get("added_tokens") or []}
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    settings = {**_json(folder / "special_tokens_map.json"), **_json(folder / "tokenizer_config.json")}
    return Tokenizer(tokens, {role: _token(settings.get(f"{role}_token")) for role in ROLES}, _template(folder), file)


def _template(folder: Path) -> str | None:
    """The chat template: of a file of its own, or of the settings; of several the default."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        found = _json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        named = [one for one in cast("list[dict[str, str]]", found) if one.get("name") == "default"]
        found = named[0].get("template") if named else None
    return found if isinstance(found, str) else None


def _token(value: Any) -> str | None:
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("content")
    return value if isinstance(value, str) else None


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _shown(tokens: dict[int, str], number: int) -> str:
    return f'"{tokens[number]}"' if number in tokens else "no token"
