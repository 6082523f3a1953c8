"""A chart of quality against latency: a dot a model, its interval as a whisker, on a logarithmic scale of time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attar.report import figures as draw
from attar.report.markup import Html
from attar.report.numbers import Written, milliseconds

WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 620, 62, 600, 16, 300
_STEPS = (1.0, 2.0, 5.0)
_WIDE = 170
"""As far apart, labels do not touch."""


@dataclass(frozen=True)
class Point:
    """One model. `lo` and `hi` bound the quality where they are known."""

    label: str
    role: draw.Role
    ms: float
    quality: float
    lo: float | None = None
    hi: float | None = None


def scatter(title: str, points: Sequence[Point], written: Written, quality: str) -> Html:
    """`quality` names the metric, `written` writes its values. At least one point."""
    ends = [v for p in points for v in (p.quality, p.lo, p.hi) if v is not None]
    low, high = draw.padded(ends)
    y = draw.scale(low, high, _BOTTOM, _TOP)
    fast, slow = min(p.ms for p in points) / 1.4, max(p.ms for p in points) * 1.4
    across = draw.scale(math.log10(fast), math.log10(slow), _LEFT, _RIGHT)
    parts: list[Html] = []
    for tick in draw.ticks(low, high, 4):
        parts.append(draw.line(_LEFT, y(tick), _RIGHT, y(tick), "grid"))
        parts.append(draw.words(_LEFT - 8, y(tick) + 4, written(tick), "tick end"))
    for tick in _log_ticks(fast, slow):
        x = across(math.log10(tick))
        parts.append(draw.line(x, _TOP, x, _BOTTOM, "grid"))
        parts.append(draw.words(x, _BOTTOM + 18, f"{tick:g}", "tick middle"))
    parts.append(draw.words(_RIGHT, _BOTTOM + 38, "milliseconds a row (logarithmic)", "tick end"))
    parts.append(draw.words(_LEFT, _BOTTOM + 38, quality, "tick"))
    labels: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: -p.quality):
        x, at = across(math.log10(point.ms)), y(point.quality)
        if point.lo is not None and point.hi is not None:
            parts.append(draw.line(x, y(point.lo), x, y(point.hi), f"whisker {point.role}"))
        parts.append(draw.dot(x, at, point.role))
        beside = _free(at, [height for other, height in labels if abs(other - x) < _WIDE])
        labels.append((x, beside))
        end = x > (_LEFT + _RIGHT) / 2
        place = x - 10 if end else x + 10
        parts.append(draw.words(place, beside + 4, point.label, f"name {point.role}{' end' if end else ''}"))
    spoken = "; ".join(f"{p.label}: {written(p.quality)} in {milliseconds(p.ms)}" for p in points)
    return draw.svg(title, f"{spoken}.", _BOTTOM + 44, parts, WIDTH)


def _free(at: float, taken: Sequence[float], apart: float = 15.0) -> float:
    """The first height at or below `at` where no label stands yet."""
    while any(abs(at - other) < apart for other in taken):
        at += 3.0
    return at


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the bounds."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in _STEPS if low <= step * 10.0**power <= high]
