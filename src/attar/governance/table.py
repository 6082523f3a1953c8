"""The policy table: `teachers.yaml` as typed rows, and which of them speak for a teacher."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["allow", "conditional", "ask", "block"]
StudentKind = Literal["classifier", "language_model"]
UNKNOWN = "unknown"
OWN_MODEL = "own-model"

_SEVERITY: dict[Verdict, int] = {"allow": 0, "conditional": 1, "ask": 2, "block": 3}
_UNSAID = {"", "other", "unknown", "none"}
_WORDS = re.compile(r"\b(the|licen[cs]e|version|software)\b|[,()]")
_ALIASES = {
    "apache": "apache-2.0",
    "apache2": "apache-2.0",
    "apache2.0": "apache-2.0",
    "apache-2": "apache-2.0",
    "expat": "mit",
    "mit-mit": "mit",
    "bsd-new": "bsd-3-clause",
    "bsd-3": "bsd-3-clause",
    "cc0": "cc0-1.0",
    "llama-2": "llama2",
    "llama-3": "llama3",
}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PassesOn(_Strict):
    """What a teacher's terms ask of the student."""

    student_name_prefix: str | None = None
    student_licence: str | None = Field(default=None, description="A licence id, or `teacher` for the teacher's own.")
    binds: bool = Field(default=False, description="The student can have no other licence.")
    distribute: bool = Field(default=True, description="False: the student is not to be handed on.")
    notices: list[str] = []

    @property
    def weight(self) -> int:
        """How much it asks; of two rows with one verdict the weightier decides."""
        return 2 * (not self.distribute) + 2 * self.binds + bool(self.student_name_prefix)


class Row(_Strict):
    """One row of the table; see the head of `teachers.yaml`."""

    id: str
    title: str
    models: dict[str, str | None] = {}
    licences: list[str] = []
    verdict: Verdict | dict[StudentKind, Verdict]
    text: str
    source: str
    date: str
    yields: bool = False
    hub: str | None = Field(default=None, description="The same weights on the Hub, for the model card.")
    passes_on: PassesOn = PassesOn()

    def verdict_for(self, kind: StudentKind) -> Verdict:
        """The verdict for a kind of student."""
        return self.verdict[kind] if isinstance(self.verdict, dict) else self.verdict

    def matches(self, name: str) -> bool:
        """Whether the row speaks for a teacher of this name."""
        return any(fnmatchcase(name.casefold(), pattern) for pattern in self.models)

    def licence_of(self, name: str) -> str | None:
        """The licence that the name implies, if any."""
        implied = (licence for pattern, licence in self.models.items() if fnmatchcase(name.casefold(), pattern))
        return next(implied, None)


@cache
def rows() -> tuple[Row, ...]:
    """Every row, in the file's order."""
    text = files("attar.governance").joinpath("teachers.yaml").read_text(encoding="utf-8")
    return tuple(Row.model_validate(row) for row in yaml.safe_load(text)["rows"])


def row(identity: str) -> Row:
    """The row with this id. Raises KeyError."""
    return {r.id: r for r in rows()}[identity]


def normal_licence(licence: str | None) -> str | None:
    """A licence id as the table writes it ("Apache License 2.0" -> "apache-2.0"); None where nothing is said."""
    text = _WORDS.sub(" ", (licence or "").casefold())
    short = re.sub(r"[\s_]+", "-", text.strip())
    short = _ALIASES.get(short, short)
    return None if short in _UNSAID else short


def strictest(name: str, licence: str | None, kind: StudentKind, named: Row | None = None) -> Row:
    """The row that decides for a teacher: the strictest of those that its name, its licence or the recipe brings in.

    `licence` is normal. A licence without a row counts as unknown, unless the recipe itself names a row.
    """
    by_licence = [r for r in rows() if licence in r.licences]
    by_name = [r for r in rows() if r.matches(name) and not (r.yields and by_licence)]
    found = [*([named] if named else []), *by_name, *by_licence]
    told = licence is None or bool(by_licence) or licence in {r.licence_of(name) for r in by_name}
    if not found or (named is None and not told):
        found.append(row(UNKNOWN))
    return max(found, key=lambda r: severity(r, kind))


def severity(terms: Row, kind: StudentKind) -> tuple[int, int]:
    """How strict a row is; of two the larger decides."""
    return _SEVERITY[terms.verdict_for(kind)], terms.passes_on.weight
