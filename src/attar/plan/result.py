"""What a check finds: the plan of a run, as data (`to_dict`) and as lines for the terminal (`lines`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from attar.facts import BudgetFacts
from attar.recipe.nearest import listed


@dataclass(frozen=True)
class Size:
    """A number that may be known only within bounds: `low` <= value <= `high`; equal where it is exact.

    `likely` is the best guess between them. None everywhere: not known, and `note` says why.
    """

    low: int | None = None
    high: int | None = None
    likely: int | None = None
    note: str = ""

    @classmethod
    def exact(cls, value: int, note: str = "") -> Size:
        """A size known for certain."""
        return cls(value, value, value, note)

    @property
    def is_exact(self) -> bool:
        """Is it known for certain?"""
        return self.low is not None and self.low == self.high

    def __str__(self) -> str:
        if self.likely is None:
            return f"not known ({self.note})"
        text = f"{self.likely:,}" if self.is_exact else f"about {self.likely:,} ({self.low:,} to {self.high:,})"
        return f"{text}, {self.note}" if self.note else text


@dataclass(frozen=True)
class ModelPlan:
    """What is known of the teacher or the student before it is opened."""

    source: str
    family: str | None
    layers: int | None
    hidden: int | None
    params: Size
    tokens: Size | None = None
    """Vocabulary; None for images."""
    bytes: int | None = None
    """fp32 weights, 4 bytes a parameter (the likely count)."""
    labels: tuple[str, ...] = ()
    """Names of its outputs, as its configuration has them."""


@dataclass(frozen=True)
class DataPlan:
    """What is known of the rows. A count of None is one that only loading can tell."""

    source: str
    rows: dict[str, int | None]
    """By split, cuts included; `transfer` are the rows that the teacher labels besides."""
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    """Names found in the data (or given by the recipe); empty where there are none or they are not known yet."""
    labelled: bool | None
    note: str = ""


@dataclass(frozen=True)
class SignalsPlan:
    """Signals needed by the objectives against those offered; `mode` is how they reach the training."""

    needed: tuple[str, ...]
    offered: tuple[str, ...] | None
    """None: only the model itself can tell."""
    mode: str
    """`live`, `store` (label once, then train from disk), `stored`, or `none`."""


@dataclass(frozen=True)
class Estimate:
    """A cost that is expected, not measured. `value` None: not estimated, and `basis` says why."""

    name: str
    value: float | None
    unit: str
    basis: str
    available: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return f"not estimated: {self.basis}"
        free = "" if self.available is None else f" of {_quantity(self.available, self.unit)} free"
        return f"about {_quantity(self.value, self.unit)}{free} ({self.basis})"


@dataclass(frozen=True)
class Plan:
    """A recipe whose parts fit each other, with what is known before work begins."""

    name: str
    recipe_hash: str
    task: str
    teacher: ModelPlan
    student: ModelPlan
    data: DataPlan
    language: dict[str, str]
    """Of language models, by name: tokenizers, widths, special tokens, templates, heads, lengths. Empty for others."""
    signals: SignalsPlan
    objectives: tuple[str, ...]
    rounding: str
    """What a quantization-aware training trains for; empty where it is none."""
    estimates: tuple[Estimate, ...]
    budget: tuple[BudgetFacts, ...]
    warnings: tuple[str, ...]
    foretold: tuple[str, ...]
    """Those of them that the run's own figures replace."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        plain = asdict(self)
        plain["budget"] = [line.model_dump() for line in self.budget]
        return plain

    def lines(self) -> list[str]:
        """The plan for people: sections with two-space indents, warnings last."""
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.name}  {self.task}  (recipe {self.recipe_hash})"
        yield from _model("teacher", self.teacher)
        yield from _model("student", self.student)
        yield f"data      {self.data.source}"
        counts = ", ".join(f"{name} {_count(rows)}" for name, rows in self.data.rows.items())
        yield f"  rows      {counts}" + (f" ({self.data.note})" if self.data.note else "")
        if self.data.labels:
            yield f"  labels    {len(self.data.labels)}: {listed(self.data.labels, 8)}"
        elif self.data.labelled is False:
            yield "  labels    none: agreement with the teacher is the metric, and there is no control"
        if self.language:
            yield "language"
            yield from (f"  {name:<9} {told}" for name, told in self.language.items())
        yield "objectives"
        yield from (f"  {objective}" for objective in self.objectives)
        offered = (
            "known when the teacher is opened" if self.signals.offered is None else ", ".join(self.signals.offered)
        )
        yield f"signals   {self.signals.mode}"
        yield f"  needed    {', '.join(self.signals.needed) or 'none'}"
        yield f"  offered   {offered}"
        if self.rounding:
            yield f"rounding  {self.rounding} (quantization-aware)"
        yield "estimates"
        yield from (f"  {estimate.name:<9} {estimate}" for estimate in self.estimates)
        if self.budget:
            yield "budget"
            yield from (f"  {_budget(line)}" for line in self.budget)
        if self.warnings:
            yield "warnings"
            yield from (f"  {warning}" for warning in self.warnings)


def _model(role: str, model: ModelPlan) -> Iterator[str]:
    shape = [
        f"{count} {what}" for count, what in ((model.layers, "layers"), (model.hidden, "wide")) if count is not None
    ]
    yield f"{role:<9} {model.source}" + (f" ({', '.join([model.family, *shape])})" if model.family else "")
    size = "" if model.bytes is None else f"; {_quantity(model.bytes, 'bytes')} in fp32"
    yield f"  params    {model.params}{size}"
    if model.tokens is not None:
        yield f"  tokens    {model.tokens}"


def _budget(line: BudgetFacts) -> str:
    state = {True: "met", False: "cannot be met", None: "decided at the end"}[line.met]
    value = "" if line.value is None else f", expected {_figure(line.value)}"
    bound = "at least" if line.name.startswith("min_") else "at most"
    return f"{line.name:<14} {bound} {_figure(line.limit)} {line.unit}{value}: {state}" + (
        f" ({line.note})" if line.note else ""
    )


def _count(rows: int | None) -> str:
    return "not known" if rows is None else f"{rows:,}"


def _quantity(value: float, unit: str) -> str:
    match unit:
        case "bytes":
            for name, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
                if value >= size:
                    return f"{value / size:.1f} {name}"
            return f"{value:.0f} bytes"
        case "seconds":
            return (
                f"{value / 3600:.1f} hours"
                if value >= 5400
                else f"{value / 60:.0f} minutes"
                if value >= 90
                else f"{value:.0f} s"
            )
        case _:
            return f"{_figure(value)} {unit}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.6g}"
