"""`bench.json`: every model and file of a finished run, measured side by side; its JSON Schema is made from here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attar.facts.base import Facts, Interval, Measurement
from attar.facts.energy import BreakEvenFacts, JoulesFacts

BENCH_VERSION = 1
Role = Literal["teacher", "control", "student", "file"]


class BatchFacts(Facts):
    """One model asked batches of one size."""

    batch: int = Field(description="Rows asked together.")
    latency: Measurement = Field(description="Of one call, in milliseconds.")
    rows_per_second: float
    tokens_per_second: float | None = Field(default=None, description="Of language models: tokens read (prefill).")
    faster: Interval | None = Field(
        default=None, description="How many times faster than the reference, over interleaved repeats."
    )
    peak_bytes: int | None = Field(
        description="The most memory of its process up to here, the runtime included. None: the system does not tell."
    )
    energy: JoulesFacts = Field(description="Of 1,000 rows.")
    energy_share: Interval | None = Field(default=None, description="Over the reference's, by the same method.")


class BenchedFacts(Facts):
    """One model or file."""

    name: str
    role: Role
    runtime: str | None = Field(description="None: not measured; see `notes`.")
    bytes: int = Field(description="fp32 safetensors weights; of a file: all that is needed to run it.")
    quality: float | None = Field(description="The run's metric on test; None where it is not known.")
    quality_interval: Interval | None = None
    load_seconds: float | None = Field(
        default=None, description="From the runtime imported to the first answer; once, alone on the machine."
    )
    batches: list[BatchFacts] = Field(default=[])
    break_even: BreakEvenFacts | None = Field(
        default=None,
        description="One row at a time: a file instead of the reference, the student instead of the teacher as it is.",
    )
    notes: list[str] = Field(default=[], description="What is not measured, and why; how it was made.")


class BenchFacts(Facts):
    """All of them, interleaved in one go, with the conditions."""

    schema_version: int = BENCH_VERSION
    run: str
    record: str = Field(description="SHA-256 of the run.json that it speaks of.")
    created: str = Field(description="UTC, ISO 8601.")
    code: dict[str, str]
    packages: dict[str, str]
    machine: dict[str, str] = Field(description="System, processor, cores, memory; no host name.")
    threads: int
    repeats: int
    row: str = Field(description="What is asked.")
    metric: str
    reference: str | None = Field(description="Whom the others are compared with; None: it was not measured.")
    models: list[BenchedFacts]
    notes: list[str] = Field(default=[])
