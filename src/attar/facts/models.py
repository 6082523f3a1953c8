"""Models and what is made of them: sizes, exported files, parity with the checkpoint, the budget."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attar.facts.base import Facts, Interval, Measurement
from attar.facts.training import ContinuedFacts, StepFacts


class ModelFacts(Facts):
    """Size and cost of one model."""

    name: str
    family: str = Field(description="Architecture family, as config.model_type.")
    params: int
    bytes: int = Field(description="fp32 safetensors weights.")
    flops: int | None = Field(default=None, description="Multiply-adds times two, of one row of median length.")
    latency: Measurement | None = None
    note: str | None = Field(default=None, description="Why something was not measured.")


class ParityFacts(Facts):
    """How an exported file answers against the checkpoint, on real rows."""

    max_abs: float
    agreement: float
    kl: float | None = None
    n: int
    bound_max_abs: float | None
    bound_agreement: float | None
    cached: StepFacts | None = Field(default=None, description="Of a decoder with a cache; the bounds hold here too.")
    written: ContinuedFacts | None = Field(default=None, description="Of language models.")
    bound_written: float | None = Field(default=None, description="Least share of tokens written as the checkpoint's.")


class ArtifactFacts(Facts):
    """One exported file, measured through its own runtime."""

    kind: str
    precision: str
    path: str = Field(description="Relative to the run's folder.")
    bytes: int = Field(description="Every file needed to run it; the tokenizer apart.")
    tokenizer_bytes: int = 0
    sha256: str = Field(description="Hash of the model file.")
    files: dict[str, str] = Field(default={}, description="SHA-256 of every file in its folder, by name.")
    quality: float | None = Field(description="The metric on test, from the exported file.")
    quality_interval: Interval | None = None
    retention: Interval | None = None
    parity: ParityFacts
    latency_ms: float | None
    latency: Measurement | None = None
    inputs: list[str]
    outputs: list[str]
    runtime: str
    note: str | None = None


class RefusedFacts(Facts):
    """An export that was asked for and is not handed over."""

    kind: str
    precision: str
    seed: int
    failed: Literal["parity", "export"] = Field(description="`parity`: made, but it does not answer like the student.")
    reason: str


class BudgetFacts(Facts):
    """One line of the budget."""

    name: str
    limit: float
    value: float | None
    unit: str
    met: bool | None = Field(description="None: could not be measured; see note.")
    note: str | None = None
