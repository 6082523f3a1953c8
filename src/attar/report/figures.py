"""Figures as hand-written inline SVG: a few kilobytes each, coloured by the page's style, so that dark mode and print
work by themselves. Each figure has a title and a description that says the same in words.

Who is who stays the same everywhere: the student is the accent, the teacher ink, the control grey and dashed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from attar.report.markup import Child, Html, tag, text
from attar.report.numbers import Written

Role = Literal["teacher", "student", "control", "other"]

WIDTH = 340
_ROW = 30
_POINTS = 240
_LABEL = 118


@dataclass(frozen=True)
class Mark:
    """A row of a dot plot or a bar chart. `lo` and `hi` bound `value` where they are known."""

    label: str
    role: Role
    value: float | None
    lo: float | None = None
    hi: float | None = None


@dataclass(frozen=True)
class Line:
    """One line of a chart: points (x, y) in rising x."""

    label: str
    role: Role
    points: Sequence[tuple[float, float]]


def figure(title: str, drawing: Html, note: Child = None) -> Html:
    """A drawing with its visible title and a note."""
    caption = tag("figcaption", tag("strong", title), tag("span", note, class_="note") if note else None)
    return tag("figure", caption, drawing)


def dots(title: str, marks: Sequence[Mark], written: Written) -> Html:
    """Values with their intervals, a row each, on an axis that does not start at zero."""
    known = [m for m in marks if m.value is not None]
    ends = [v for m in known for v in (m.value, m.lo, m.hi) if v is not None]
    low, high = padded(ends)
    x = scale(low, high, _LABEL, WIDTH - 56)
    parts: list[Html] = [_grid_v(x, tick, 6, 6 + _ROW * len(marks)) for tick in ticks(low, high, 3)]
    for row, mark in enumerate(marks):
        y = 6 + _ROW * row + _ROW / 2
        parts.append(words(0, y + 4, _short(mark.label), f"name {mark.role}"))
        if mark.value is None:
            parts.append(words(_LABEL, y + 4, "not measured", "none"))
            continue
        if mark.lo is not None and mark.hi is not None:
            parts.append(line(x(mark.lo), y, x(mark.hi), y, f"whisker {mark.role}"))
        parts.append(dot(x(mark.value), y, mark.role))
        parts.append(words(WIDTH, y + 4, written(mark.value), "value end"))
    height = 6 + _ROW * len(marks) + 20
    parts += [words(x(tick), height - 4, _axis(written, tick), "tick middle") for tick in ticks(low, high, 3)]
    return svg(title, _spoken(marks, written), height, parts)


def bars(title: str, marks: Sequence[Mark], written: Written) -> Html:
    """Amounts from zero, a row each."""
    top = max((m.value for m in marks if m.value is not None), default=1.0) or 1.0
    x = scale(0, top, _LABEL, WIDTH - 70)
    parts: list[Html] = []
    for row, mark in enumerate(marks):
        y = 6 + _ROW * row + _ROW / 2
        parts.append(words(0, y + 4, _short(mark.label), f"name {mark.role}"))
        if mark.value is None:
            parts.append(words(_LABEL, y + 4, "not measured", "none"))
            continue
        end = max(x(mark.value), _LABEL + 2)
        parts.append(tag("rect", x=_LABEL, y=y - 6, width=end - _LABEL, height=12, rx=2, class_=f"bar {mark.role}"))
        parts.append(words(end + 7, y + 4, written(mark.value), "value"))
    return svg(title, _spoken(marks, written), 6 + _ROW * len(marks), parts)


def lines(title: str, series: Sequence[Line], written: Written, x_label: str, width: int = WIDTH) -> Html:
    """Curves over training, their ends marked."""
    drawn = [Line(s.label, s.role, _thinned([p for p in s.points if _finite(p)])) for s in series]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return svg(title, "No values were logged.", 30, [words(0, 18, "no values were logged", "none")])
    xs = [p[0] for s in drawn for p in s.points]
    low, high = padded([p[1] for s in drawn for p in s.points])
    left, bottom, top = 44, 164, 10
    x = scale(min(xs), max(max(xs), min(xs) + 1e-9), left, width - 12)
    y = scale(low, high, bottom, top)
    parts = [_grid_h(y, tick, left, width - 12) for tick in ticks(low, high, 4)]
    parts += [words(left - 6, y(tick) + 4, _axis(written, tick), "tick end") for tick in ticks(low, high, 4)]
    parts.append(words(left, bottom + 18, f"{min(xs):,.0f}", "tick"))
    parts.append(words(width - 12, bottom + 18, f"{x_label} {max(xs):,.0f}", "tick end"))
    for one in sorted(drawn, key=lambda s: s.role == "student"):
        shape = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in one.points)
        parts.append(tag("polyline", points=shape, class_=f"curve {one.role}"))
        parts.append(dot(x(one.points[-1][0]), y(one.points[-1][1]), one.role))
    spoken = "; ".join(
        f"{s.label} goes from {written(s.points[0][1])} to {written(s.points[-1][1])} over {len(s.points)} points"
        for s in drawn
    )
    return svg(title, spoken, bottom + 24, parts, width)


def reliability(title: str, role: Role, bins: Sequence[tuple[float, float, int]]) -> Html:
    """Accuracy against confidence: on the diagonal a model is as right as it is sure. Dots grow with the bin's rows."""
    left, top, side = 40, 8, 200
    x, y = scale(0, 1, left, left + side), scale(0, 1, top + side, top)
    parts: list[Html] = []
    for tick in (0.0, 0.5, 1.0):
        parts += [_grid_h(y, tick, left, left + side), _grid_v(x, tick, top, top + side)]
        parts += [words(left - 6, y(tick) + 4, f"{100 * tick:.0f}", "tick end")]
        parts += [words(x(tick), top + side + 16, f"{100 * tick:.0f}", "tick middle")]
    parts.append(words(left + side / 2, top + side + 32, "confidence, %", "tick middle"))
    parts.append(line(x(0), y(0), x(1), y(1), "diagonal"))
    most = max((n for _, _, n in bins), default=1)
    for sure, right, n in bins:
        parts.append(line(x(sure), y(sure), x(sure), y(right), f"gap {role}"))
        radius = 2 + 3.2 * math.sqrt(n / most)
        parts.append(
            tag("circle", cx=round(x(sure), 1), cy=round(y(right), 1), r=round(radius, 1), class_=f"dot {role}")
        )
    spoken = ", ".join(f"{100 * sure:.0f} % sure and {100 * right:.0f} % right ({n} rows)" for sure, right, n in bins)
    return svg(title, f"{len(bins)} bins: {spoken}.", top + side + 38, parts, width=left + side + 12)


def dumbbells(title: str, rows: Sequence[tuple[str, float, float]], written: Written) -> Html:
    """From the teacher's value to the student's, a row each below its name: (name, teacher, student)."""
    low, high = padded([v for _, a, b in rows for v in (a, b)], most=1.0)
    x = scale(low, high, 4, WIDTH - 4)
    places, bottom = ticks(low, high, 4), 40 * len(rows)
    parts: list[Html] = []
    for row, (name, teacher, student) in enumerate(rows):
        y = 40 * row + 27
        parts += [line(4, y, WIDTH - 4, y, "grid"), line(x(teacher), y, x(student), y, "whisker student")]
        parts += [dot(x(teacher), y, "teacher"), dot(x(student), y, "student")]
        parts.append(words(0, y - 12, _short(name, 38), "name other"))
        parts.append(words(WIDTH, y - 12, f"{written(teacher)} \u2192 {written(student)}", "tick end"))
    parts += [words(x(tick), bottom + 8, _axis(written, tick), "tick middle") for tick in places]
    spoken = "; ".join(f"{name}: teacher {written(a)}, student {written(b)}" for name, a, b in rows)
    return svg(title, spoken, bottom + 12, parts)


def key(roles: Sequence[tuple[Role, str]]) -> Html:
    """What the marks mean."""
    items = [
        tag("li", tag("svg", dot(7, 7, role), viewBox="0 0 14 14", class_="swatch", aria_hidden="true"), label)
        for role, label in roles
    ]
    return tag("ul", items, class_="key")


def svg(title: str, spoken: str, height: float, parts: Sequence[Html], width: int = WIDTH) -> Html:
    """A drawing that says in words what it shows."""
    head = [tag("title", title), tag("desc", spoken)]
    label = f"{title}. {spoken}"
    return tag("svg", head, parts, viewBox=f"0 0 {width} {height:g}", role="img", aria_label=label, class_=f"w{width}")


def dot(x: float, y: float, role: Role) -> Html:
    """The teacher is a square, the control a ring, everybody else a disc: they differ without colour."""
    x, y = round(x, 1), round(y, 1)
    if role == "teacher":
        return tag("rect", x=x - 4, y=y - 4, width=8, height=8, class_="dot teacher")
    return tag("circle", cx=x, cy=y, r=4.5, class_=f"dot {role}")


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    """From one point to another."""
    return tag("line", x1=round(x1, 1), y1=round(y1, 1), x2=round(x2, 1), y2=round(y2, 1), class_=class_)


def _grid_h(y: Callable[[float], float], at: float, left: float, right: float) -> Html:
    return line(left, y(at), right, y(at), "grid")


def _grid_v(x: Callable[[float], float], at: float, top: float, bottom: float) -> Html:
    return line(x(at), top, x(at), bottom, "grid")


def words(x: float, y: float, content: str, class_: str) -> Html:
    """Text at a point."""
    return tag("text", text(content), x=round(x, 1), y=round(y, 1), class_=class_)


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From values `low` to `high` to places `start` to `end`."""
    return lambda value: start + (end - start) * (value - low) / (high - low)


def padded(values: Sequence[float], most: float = math.inf) -> tuple[float, float]:
    """Bounds that hold all values with some air; never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    air = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    return low - air, min(high + air, max(most, high) + air / 2)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers inside the bounds, roughly `about` of them."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_POINTS` of the points, evenly chosen, first and last among them."""
    if len(points) <= _POINTS:
        return list(points)
    return [points[round(i * (len(points) - 1) / (_POINTS - 1))] for i in range(_POINTS)]


def _finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _axis(written: Written, tick: float) -> str:
    """A round number on an axis, without zeros after the point."""
    return re.sub(r"\.0+(?!\d)", "", written(tick))


def _short(label: str, most: int = 17) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}\u2026"


def _spoken(marks: Sequence[Mark], written: Written) -> str:
    return "; ".join(f"{m.label}: {'not measured' if m.value is None else written(m.value)}" for m in marks) + "."
