"""A chart of quality against latency: a dot a model, its interval as a whisker, on a logarithmic scale of time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attar.report import figures as draw
from attar.report.markup import Html
from attar.report.numbers import Written, milliseconds

WIDTH, _LEFT, _RIGHT, _HEIGHT = 620, 62, 470, 270
_STEPS = (1.0, 2.0, 5.0)
_FLAG = 15
"""Height of a label."""


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
    """`quality` names the metric, `written` writes its values. At least one point.

    Labels stand above, each on a line of its own that leads down to its dot, the fastest on top: so no line crosses a
    label, however near the dots are.
    """
    top = 16 + _FLAG * len(points)
    bottom = top + _HEIGHT
    ends = [v for p in points for v in (p.quality, p.lo, p.hi) if v is not None]
    low, high = draw.padded(ends)
    y = draw.scale(low, high, bottom, top)
    fast, slow = min(p.ms for p in points) / 1.4, max(p.ms for p in points) * 1.4
    across = draw.scale(math.log10(fast), math.log10(slow), _LEFT, _RIGHT)
    parts: list[Html] = []
    for tick in draw.ticks(low, high, 4):
        parts.append(draw.line(_LEFT, y(tick), _RIGHT, y(tick), "grid"))
        parts.append(draw.words(_LEFT - 8, y(tick) + 4, written(tick), "tick end"))
    for tick in _log_ticks(fast, slow):
        x = across(math.log10(tick))
        parts.append(draw.line(x, top, x, bottom, "grid"))
        parts.append(draw.words(x, bottom + 18, f"{tick:g}", "tick middle"))
    parts.append(draw.words(_RIGHT, bottom + 38, "milliseconds a row (logarithmic)", "tick end"))
    parts.append(draw.words(_LEFT, bottom + 38, quality, "tick"))
    for place, point in enumerate(sorted(points, key=lambda p: p.ms)):
        x, at, flag = across(math.log10(point.ms)), y(point.quality), 4 + _FLAG * place
        parts.append(draw.line(x, flag, x, at, "grid"))
        if point.lo is not None and point.hi is not None:
            parts.append(draw.line(x, y(point.lo), x, y(point.hi), f"whisker {point.role}"))
        parts.append(draw.dot(x, at, point.role))
        parts.append(draw.words(x + 4, flag + 8, point.label, f"name {point.role}"))
    spoken = "; ".join(f"{p.label}: {written(p.quality)} in {milliseconds(p.ms)}" for p in points)
    return draw.svg(title, f"{spoken}.", bottom + 44, parts, WIDTH)


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the bounds."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in _STEPS if low <= step * 10.0**power <= high]
