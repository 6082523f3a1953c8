"""The base of all records, and those of numbers with their conditions: intervals, measurements, parity of files."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Facts(BaseModel):
    """Base of all records: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(Facts):
    """A statistic with its bootstrap interval."""

    value: float
    lo: float
    hi: float
    n: int = Field(description="Rows that it rests on (per seed).")
    seeds: int = Field(default=1, description="Training seeds that it rests on.")
    confidence: float = 0.95
    method: str = Field(default="paired bootstrap over rows", description="How lo and hi were found.")


class Measurement(Facts):
    """A measured physical quantity: median of n repeats with its spread, and its conditions."""

    value: float
    unit: str
    n: int
    lo: float = Field(description="Smallest repeat.")
    hi: float = Field(description="Largest repeat.")
    p95: float | None = None
    device: str = "cpu"
    threads: int = 1
    dtype: str = "float32"
    method: str = Field(description="What was timed, with which runtime and which row.")


class StepFacts(Facts):
    """How an exported decoder answers token by token, through its cache, against the checkpoint asked at once."""

    max_abs: float
    agreement: float
    kl: float
    n: int = Field(description="Tokens.")


class ContinuedFacts(Facts):
    """What an exported language model writes after prompts, its likeliest token each time, against the checkpoint."""

    prompts: int
    tokens: int
    same: float = Field(description="Share of the tokens that are the checkpoint's, place by place.")
    unchanged: int = Field(description="Prompts after which both write the same to the end.")
    first_difference: int | None = Field(description="Earliest place, from 0, where they differ; None: nowhere.")


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
