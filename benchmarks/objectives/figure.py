"""One SVG: what each objective gains over no teacher, with its interval, a column a case. It brings its own paper."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from rows import CONTROL, REFERENCE

from attar.report.markup import Html, tag

_ROW, _TOP, _NAMES, _WIDTH, _GAP = 18, 64, 190, 220, 56
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f } .paper { fill: #ffffff }
.soft { fill: #57606a } .axis { stroke: #8c959f } .grid { stroke: #d0d7de; stroke-dasharray: 2 3 }
.line { stroke: #0969da; stroke-width: 2 } .dot { fill: #0969da }
.unclear { stroke: #8c959f; stroke-width: 2 } .unclear.dot { fill: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .paper { fill: #0d1117 } .soft { fill: #9198a1 } .grid { stroke: #3d444d }
  .line { stroke: #58a6ff } .dot { fill: #58a6ff }
}
"""

Facts = Mapping[str, Any]


def figure(result: Facts) -> str:
    """The whole drawing; grey where the interval holds 0, nothing where a case does not have the row."""
    cases = list(result["cases"].values())
    names = _order(cases)
    height = _TOP + _ROW * len(names) + 34
    width = _NAMES + (_WIDTH + _GAP) * len(cases)
    title = f"Gain over {CONTROL}, with 95 % intervals; grey: not to be told from it"
    parts = [
        tag("style", Html(_STYLE)),
        tag("rect", width=width, height=height, rx=6, class_="paper"),
        tag("text", title, x=_NAMES, y=22),
    ]
    for at, name in enumerate(names):
        shown = f"{name} (reference)" if name == REFERENCE else name
        parts.append(tag("text", shown, x=_NAMES - 8, y=_middle(at) + 4, text_anchor="end"))
    for number, case in enumerate(cases):
        parts += _column(case, names, _NAMES + (_WIDTH + _GAP) * number, height)
    drawing = tag(
        "svg", parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width} {height}", width=width, height=height,
        role="img",
    )  # fmt: skip
    return drawing + "\n"


def _order(cases: list[Any]) -> list[str]:
    """All rows but the control, those first that gain most on average over the cases, each case's largest being 1."""
    gains: dict[str, list[float]] = {}
    for case in cases:
        found = {name: row["over_control"]["value"] for name, row in case["rows"].items() if "over_control" in row}
        largest = max((abs(value) for value in found.values()), default=0.0) or 1.0
        for name, value in found.items():
            gains.setdefault(name, []).append(value / largest)
    return sorted(gains, key=lambda name: -fmean(gains[name]))


def _column(case: Facts, names: list[str], left: int, height: int) -> list[Html]:
    scale, unit = (100, "points of accuracy") if case["metric"] == "accuracy" else (1, "nats a token less")
    found = {name: row["over_control"] for name, row in case["rows"].items() if "over_control" in row}
    ends = [scale * one[end] for one in found.values() for end in ("lo", "hi")]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return round(left + _WIDTH * (value - low) / span, 1)

    bottom = _TOP + _ROW * len(names)
    parts = [
        tag("text", f"{case['title'].split(':')[0]}, {unit}", x=left, y=_TOP - 14, class_="soft"),
    ]
    for value in (low, high):
        parts.append(tag("line", x1=x(value), x2=x(value), y1=_TOP, y2=bottom, class_="grid"))
        parts.append(_number(x(value), bottom + 16, value))
    parts.append(tag("line", x1=x(0), x2=x(0), y1=_TOP - 4, y2=bottom + 4, class_="axis"))
    for at, name in enumerate(names):
        if (one := found.get(name)) is None:
            continue
        y, sure = _middle(at), "" if one["lo"] > 0 or one["hi"] < 0 else " unclear"
        lo, value, hi = (x(scale * one[part]) for part in ("lo", "value", "hi"))
        parts.append(tag("line", x1=lo, x2=hi, y1=y, y2=y, class_=f"line{sure}"))
        parts.append(tag("circle", cx=value, cy=y, r=4, class_=f"dot{sure}"))
    return parts


def _number(x: float, y: float, value: float) -> Html:
    return tag("text", f"{value:+.2g}" if value else "0", x=x, y=y, text_anchor="middle", class_="soft")


def _middle(at: int) -> float:
    return _TOP + _ROW * at + _ROW / 2
