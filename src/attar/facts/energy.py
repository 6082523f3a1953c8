"""What work took, and the energy that stands for: counters where there are any, else an estimate that says so."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attar.facts.base import Facts, Interval

TOTAL = "total"


class SpentFacts(Facts):
    """Time that some work took, and what counters of energy told meanwhile."""

    seconds: float = Field(description="Wall time.")
    cpu_seconds: float = Field(description="Of processors: all threads and processes of the work.")
    processor_joules: float | None = Field(
        default=None, description="RAPL: packages and memory, whatever else ran on them. None: no counter to read."
    )
    accelerator_joules: float | None = Field(
        default=None, description="NVML: the whole device. None: none was used, or it has no counter; see `unread`."
    )
    unread: bool = Field(default=False, description="An accelerator worked whose energy is not known.")


class JoulesFacts(Facts):
    """An amount of energy with its conditions: an interval, and a value where counters told it."""

    value: float | None = Field(description="Median of the repeats; None: estimated, an interval alone.")
    lo: float
    hi: float
    unit: Literal["J"] = "J"
    estimated: bool = Field(description="Some of it is processor seconds times stated watts.")
    n: int = Field(default=1, description="Repeats; lo and hi hold the smallest and the largest.")
    cpu_seconds: float = Field(description="Of processors; median of the repeats.")
    seconds: float = Field(description="Wall time; median of the repeats.")
    method: str


class BreakEvenFacts(Facts):
    """Inferences, one row at a time, after which the student has saved the energy that distilling it took."""

    value: float | None = Field(description="None: never, or it depends on the watts; see `note`.")
    lo: float | None = Field(description="None: never.")
    hi: float | None = Field(description="None: no end; the student may never save it.")
    instead_of: str = Field(description="The model that the student spares.")
    student: str = Field(description="What runs in its place.")
    n: int = Field(description="Interleaved repeats that the saving rests on.")
    confidence: float
    method: str
    note: str | None = None


class CarbonFacts(Facts):
    """Grams of CO2 equivalent, by an intensity that the recipe states."""

    intensity: float = Field(description="Grams a kilowatt-hour.")
    source: str
    year: int
    pue: float = Field(description="Power usage effectiveness: the building's energy over the computers'.")
    distilling: tuple[float, float] = Field(description="Grams, from and to.")
    inference: dict[str, tuple[float, float]] = Field(description="Grams of 1,000 rows, from and to, by model.")


class EnergyFacts(Facts):
    """Energy of the whole distillation, part by part, and of asking each model."""

    watts_per_core: tuple[float, float] = Field(description="Of a busy core; where no counter can be read.")
    watts_source: str
    distilling: dict[str, JoulesFacts] = Field(description="By part; `total` last.")
    inference: dict[str, JoulesFacts] = Field(default={}, description="Of 1,000 rows, one at a time, by model.")
    ratio: dict[str, Interval] = Field(default={}, description="Over the teacher's, by the same method, by model.")
    break_even: dict[str, BreakEvenFacts] = Field(
        default={}, description="By model: `student` runs as the teacher does, files through their own runtimes."
    )
    carbon: CarbonFacts | None = None
    notes: list[str] = Field(default=[], description="What is not measured or not in the sums, and why.")

    @property
    def total(self) -> JoulesFacts | None:
        """Of the whole distillation; None where no stage counted."""
        return self.distilling.get(TOTAL)
