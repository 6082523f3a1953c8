"""What every record is made of: the base, a statistic with its interval, a measured quantity."""

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
