"""Where things come from and who allows it: sources, licences, lineage, data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attar.facts.base import Facts
from attar.facts.training import StartFacts


class PolicyFacts(Facts):
    """May this teacher be distilled, why, and what passes on to the student."""

    teacher: str
    licence: str | None
    rule: str = Field(description="Row of the policy table, or `unknown`.")
    verdict: Literal["allow", "conditional", "ask", "block"]
    decision: Literal["allow", "stop"]
    reason: str
    source: str = Field(description="Where the rule stands.")
    date: str = Field(description="When the rule was read.")
    decided_by: str | None = None
    start: StartFacts | None = Field(
        default=None, description="Of a pretrained student: what it starts from; its terms count beside the teacher's."
    )
    members: list[StartFacts] = Field(
        default=[], description="Of several teachers each; what stands above is the strictest one's."
    )
    student_name_prefix: str | None = None
    student_licence: str | None = None
    distribute: bool = Field(
        default=True, description="False: the terms forbid handing the student on; `attar push` refuses."
    )
    notices: list[str] = Field(default=[])
    disclaimer: str = "A record of what was read, not legal advice."


class SourceFacts(Facts):
    """One input of the run and its identity."""

    role: Literal["teacher", "data", "transfer", "student"]
    name: str
    revision: str | None = None
    hash: str
    licence: str | None = None


class LineageFacts(Facts):
    """What shaped this run."""

    recipe_hash: str
    sources: list[SourceFacts]
    code: dict[str, str] = Field(description="attar's version and source hash.")
    packages: dict[str, str] = Field(description="Versions of the packages that matter.")
    machine: dict[str, str] = Field(description="System, processor, cores, memory; no host name.")
    created: str = Field(description="UTC, ISO 8601.")


class DataFacts(Facts):
    """What the data looked like."""

    rows: dict[str, int] = Field(description="By split, and `transfer`.")
    labels: list[str]
    labelled: bool
    overlap_removed: int = Field(description="Training rows that also stand in validation or test; removed.")
    duplicates: int = Field(default=0, description="Rows that stand more than once within train; kept.")
    truncated: int = Field(default=0, description="Rows longer than the limit; cut.")
    notes: list[str] = Field(default=[])
