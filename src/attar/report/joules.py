"""Energies in words: an amount, a ratio, a break-even. `estimated` stands beside every estimate."""

from __future__ import annotations

from attar.facts import BreakEvenFacts, EnergyFacts, Interval, JoulesFacts, RunFacts
from attar.report import numbers as say

ESTIMATED = "estimated"


def amount(energy: JoulesFacts) -> str:
    """`2.10 J – 15.8 J`; where counters told it, the median with its range."""
    between = _between(say.joules(energy.lo), say.joules(energy.hi))
    if energy.value is None or energy.lo == energy.hi:
        return between
    return f"{say.joules(energy.value)} ({between})"


def share(ratio: Interval) -> str:
    """A ratio of two energies, with its interval: `4.1 % (4.0 – 4.3)`."""
    low, high = (say.decimals(100 * value, 1) for value in (ratio.lo, ratio.hi))
    return f"{say.percent(ratio.value)} ({low}{say.NBSP}{say.DASH}{say.NBSP}{high})"


def payback(found: BreakEvenFacts) -> str:
    """`after 12,300 inferences (11,000 – 14,000)`, or why there is no such number."""
    if found.lo is None:
        return found.note or "never"
    low, high = _count(found.lo), "no end" if found.hi is None else _count(found.hi)
    between = _between(low, high)
    if found.value is None:
        return f"after {between} inferences: {found.note}"
    value = _count(found.value)
    return f"after {value} inferences" + ("" if between == value else f" ({between})")


def energy_line(run: RunFacts) -> str | None:
    """Student against teacher in one line, by the same runtime; None where it was not measured."""
    energy = run.energy
    if energy is None or "student" not in energy.ratio:
        return None
    kind = f", {ESTIMATED}" if is_estimated(energy) else ""
    line = f"the student takes {share(energy.ratio['student'])} of the teacher's for a row{kind}"
    found = energy.break_even.get("student")
    return line if found is None else f"{line}; distilling is paid back {payback(found)}"


def is_estimated(energy: EnergyFacts) -> bool:
    """Is any of it an estimate?"""
    return any(one.estimated for one in [*energy.distilling.values(), *energy.inference.values()])


def methods(energy: EnergyFacts) -> str:
    """How it was found."""
    told = [one.method for one in [*energy.distilling.values(), *energy.inference.values()]]
    parts = list(dict.fromkeys(part for method in told for part in method.split("; ")))
    watts = f" ({energy.watts_source})" if is_estimated(energy) else ""
    return "; ".join(parts) + watts


def _between(low: str, high: str) -> str:
    return low if low == high else f"{low}{say.NBSP}{say.DASH}{say.NBSP}{high}"


def _count(value: float) -> str:
    return say.count(value) if value < 1e6 else say.compact(value)
