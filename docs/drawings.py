"""The figures as SVG that brings its own paper: readable in light and dark themes, whichever the page has.

The student is the accent, the teacher ink, as in the reports. Each drawing says in `desc` what it shows, in numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from toys import GRID, ODDS, TEACHER, Fit, Pull

from attar.report.markup import Html, tag

Scale = Callable[[float], float]
Points = Sequence[tuple[float, float]]

_WIDTH, _EDGE, _TOP, _GAP = 820, 18, 62, 26
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.paper { fill: #ffffff } .head { font-weight: 600 } .soft { fill: #57606a; font-size: 11px }
.axis { stroke: #8c959f } .grid { stroke: #d0d7de; stroke-dasharray: 2 3 }
.teacher { fill: #8c959f; fill-opacity: .35; stroke: #57606a }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round }
.student { stroke: #0969da } .second { stroke: #bc4c00; stroke-dasharray: 6 3 } .known { stroke: #8c959f }
.known { stroke-width: 1.4 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .paper { fill: #0d1117 } .soft { fill: #9198a1 }
  .axis { stroke: #656c76 } .grid { stroke: #3d444d } .teacher { stroke: #9198a1; fill: #656c76 }
  .student { stroke: #58a6ff } .second { stroke: #f0883e } .known { stroke: #656c76 }
}
"""


def draw_fits(teacher: np.ndarray, fits: Mapping[str, Fit]) -> str:
    """A panel an objective: the teacher's two modes, and the one bump that the objective likes best."""
    title = "One bump for two: what each objective makes of a student that is too simple"
    told = [f"{name}: middle {one.middle:.2f}, width {one.width:.2f}" for name, one in fits.items()]
    rows = -(-len(fits) // 3)
    height = _TOP + rows * 158
    top = 1.08 * max(teacher.max(), *(one.q.max() for one in fits.values()))
    parts = [
        _key(_EDGE, "teacher", "p, the teacher: two modes"),
        _key(_EDGE + 200, "line student", "q, the student: the Gaussian with the smallest value"),
    ]
    for (name, one), (left, upper) in zip(fits.items(), _places(3, 158), strict=False):
        x, y = _scale(-5.0, 5.0, left, left + _panel(3)), _scale(0.0, top, upper + 116, upper + 12)
        area = [(-5.0, 0.0), *zip(GRID.tolist(), teacher, strict=True), (5.0, 0.0)]
        parts += [
            tag("text", name, x=left, y=upper, class_="head"),
            _path(area, x, y, "teacher"),
            _path(list(zip(GRID.tolist(), one.q, strict=True)), x, y, "line student"),
            _line(left, y(0.0), left + _panel(3), y(0.0), "axis"),
            tag("text", _about(one), x=left, y=upper + 132, class_="soft"),
        ]
    return _svg(title, "; ".join(told) + ".", height, parts)


def draw_pulls(pulls: Mapping[str, Pull]) -> str:
    """A panel an objective: how hard it pulls at two logits, by how likely the student takes the first output."""
    p = ", ".join(f"{value:g}" for value in TEACHER)
    title = f"How hard a row is pulled: -dL/dz where the teacher says {p}"
    odd = {name: _log_odds(q) for name, q in ((".01", 0.01), (".5", 0.5), (".99", 0.99))}
    told = [
        f"{name}: {', '.join(f'{_at(one.first, x):+.2f} at q = {q}' for q, x in odd.items())}"
        for name, one in pulls.items()
    ]
    rows = -(-len(pulls) // 4)
    height = _TOP + rows * 172 + 6
    first = next(iter(pulls))
    parts = [
        _key(_EDGE, "line student", "on the teacher's first output"),
        _key(_EDGE + 220, "line second", "on its second"),
        _key(_EDGE + 350, "line known", f"{first}'s, on the first"),
        tag("text", "across: the student's q of the first output", x=_WIDTH - _EDGE, y=44, class_="soft", **_END),
    ]
    for number, ((name, one), (left, upper)) in enumerate(zip(pulls.items(), _places(4, 172), strict=False)):
        x = _scale(ODDS[0], ODDS[-1], left, left + _panel(4))
        y = _scale(-0.5, 1.1, upper + 128, upper + 10)
        parts.append(tag("text", name, x=left, y=upper, class_="head"))
        parts += [_line(left, y(at), left + _panel(4), y(at), "axis" if at == 0 else "grid") for at in (0.0, 0.5, 1.0)]
        known = _log_odds(TEACHER[0])
        parts.append(_line(x(known), y(-0.5), x(known), y(1.1), "grid"))
        parts.append(tag("text", "p", x=round(x(known) + 3, 1), y=round(y(1.0) + 2, 1), class_="soft"))
        if number % 4 == 0:
            parts += [tag("text", f"{at:g}", x=left - 4, y=round(y(at) + 4, 1), class_="soft", **_END) for at in (0, 1)]
        for label, at in odd.items():
            parts.append(tag("text", label, x=round(x(at), 1), y=upper + 142, class_="soft", text_anchor="middle"))
        lines = [("line known", pulls[first].first), ("line second", one.second), ("line student", one.first)]
        for look, values in lines[1:] if name == first else lines:
            shown = [(a, b) for a, b in zip(ODDS.tolist(), values, strict=True) if -0.5 <= b <= 1.1]
            parts.append(_path(shown, x, y, look))
    return _svg(title, "; ".join(told) + ".", height, parts)


_END = {"text_anchor": "end"}


def _about(one: Fit) -> str:
    return f"{100 * one.left:.0f} % on the left mode, width {one.width:.2f}"


def _at(values: np.ndarray, odds: float) -> float:
    return float(np.interp(odds, ODDS, values))


def _log_odds(q: float) -> float:
    return float(np.log(q / (1.0 - q)))


def _panel(columns: int) -> float:
    return (_WIDTH - 2 * _EDGE - (columns - 1) * _GAP) / columns


def _places(columns: int, height: int) -> Iterator[tuple[float, float]]:
    """Left and upper edge of each panel, row by row."""
    number = 0
    while True:
        row, column = divmod(number, columns)
        yield _EDGE + column * (_panel(columns) + _GAP), _TOP + 18 + row * height
        number += 1


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _path(points: Points, x: Scale, y: Scale, look: str) -> Html:
    return tag("polyline", points=" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points), class_=look)


def _line(x1: float, y1: float, x2: float, y2: float, look: str) -> Html:
    return tag("line", x1=round(x1, 1), y1=round(y1, 1), x2=round(x2, 1), y2=round(y2, 1), class_=look)


def _key(left: float, look: str, label: str) -> Html:
    swatch = (
        tag("rect", x=left, y=35, width=22, height=10, class_=look)
        if look == "teacher"
        else _line(left, 40, left + 22, 40, look)
    )
    return Html(swatch + tag("text", label, x=left + 28, y=44))


def _svg(title: str, told: str, height: int, parts: Sequence[Html]) -> str:
    return (
        tag(
            "svg", tag("title", title), tag("desc", told), tag("style", Html(_STYLE)),
            tag("rect", width=_WIDTH, height=height, rx=6, class_="paper"),
            tag("text", title, x=_EDGE, y=22, class_="head"), parts,
            xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {_WIDTH} {height}", width=_WIDTH, height=height,
            role="img",
        )
        + "\n"
    )  # fmt: skip
