"""One whole run: its stages, its signals, and everything else."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from attar.facts.base import Facts, Interval
from attar.facts.energy import EnergyFacts, SpentFacts
from attar.facts.models import ArtifactFacts, BudgetFacts, ModelFacts, RefusedFacts
from attar.facts.origin import DataFacts, LineageFacts, PolicyFacts
from attar.facts.quality import EvaluationFacts, QualityFacts
from attar.facts.training import SeedFacts, TrainingFacts

SCHEMA_VERSION = 1


class StageFacts(Facts):
    """One stage of the run."""

    name: str
    seconds: float = Field(description="Wall seconds when it was computed (also where it is cached now).")
    cached: bool = Field(description="Done before, by the same things. Data is read again, and found to be the same.")
    key: str = Field(description="Hash of what shaped it.")
    spent: SpentFacts | None = Field(
        default=None, description="What it took when it was computed. None: done by an attar that did not count."
    )
    earlier: SpentFacts | None = Field(
        default=None,
        description="What attempts before it took in this folder: killed, failed, or shaped by something else; as far "
        "as known. None: there were none.",
    )


class SignalsFacts(Facts):
    """How the teacher's signals reached the training, and what a store of them takes."""

    mode: Literal["live", "store", "stored"] = Field(
        description="Asked in every step; labelled once by this run; labelled before, elsewhere."
    )
    key: str = Field(description="Of the store: hash of all that shaped it; `live`: of the teacher.")
    rows: int | None = Field(default=None, description="In the store; of language models: sequences.")
    tokens: int | None = Field(default=None, description="Of language models: tokens that are told of.")
    bytes: int | None = Field(default=None, description="Of all its shards.")
    bytes_per_token: float | None = None
    spot_check: float | None = Field(
        default=None,
        description="`stored`: largest difference of rows that were asked again; of language models the share of a "
        "token's probability that stands elsewhere, mean of a sequence.",
    )


class RunFacts(Facts):
    """`run.json`: everything that is known of one run. Report, card, page and compare read only this."""

    schema_version: int = SCHEMA_VERSION
    name: str
    status: Literal["complete", "budget_missed"]
    recipe: dict[str, JsonValue]
    task: str
    data: DataFacts
    teacher: ModelFacts
    student: ModelFacts
    control: ModelFacts | None
    quality: QualityFacts
    retention: Interval | None
    kd_gain: Interval | None
    evaluation: EvaluationFacts
    training: dict[str, TrainingFacts] = Field(description="By student, control, control_random.")
    artifacts: list[ArtifactFacts]
    refused: list[RefusedFacts] = Field(default=[], description="Exports that are not handed over, and why.")
    files: dict[str, str] = Field(
        default={}, description="SHA-256 of the student's files, by their path in the run's folder; its card apart."
    )
    budget: list[BudgetFacts]
    policy: PolicyFacts
    lineage: LineageFacts
    stages: list[StageFacts]
    signals: SignalsFacts | None = Field(default=None, description="None: written by an attar that did not tell.")
    energy: EnergyFacts | None = Field(default=None, description="None: written by an attar that had no meter.")
    seeds: list[SeedFacts] = Field(default=[])
    warnings: list[str] = Field(default=[])
