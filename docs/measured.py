"""What the leaderboard says, in sentences: every name stands where its interval puts it.

Reads the JSON that `benchmarks/objectives/run.py` writes. In each case one row is the control (nothing is compared with
itself, so it alone lacks `over_control`) and one the reference; a difference is positive where the row is the better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Facts = Mapping[str, Any]

NOT_YET = "Not measured yet.\n"
_FIGURE = "../benchmarks/objectives/figure.svg"
_README = "../benchmarks/README.md"
_CHANCE = 0.05
"""A 95 % interval excludes 0 so often where there is no difference."""
_BETTER, _WORSE = 0, 2
"""Places in `Verdicts`."""


class Verdicts(NamedTuple):
    """Rows by what the interval of their difference says, the largest difference first."""

    better: list[str]
    unclear: list[str]
    worse: list[str]

    @property
    def all(self) -> list[str]:
        """Every row that was compared."""
        return [*self.better, *self.unclear, *self.worse]


def verdicts(case: Facts, key: str) -> Verdicts:
    """Sort a case's rows by their difference `key`."""
    found = {name: row[key] for name, row in case["rows"].items() if key in row}
    order = sorted(found, key=lambda name: -found[name]["value"])
    return Verdicts(
        [name for name in order if found[name]["lo"] > 0],
        [name for name in order if found[name]["lo"] <= 0 <= found[name]["hi"]],
        [name for name in order if found[name]["hi"] < 0],
    )


def section(result: Facts) -> str:
    """Everything between the markers."""
    cases = list(result["cases"].values())
    blocks = [
        f"![What each objective gains over the labels alone, with its interval]({_FIGURE})",
        "A row adds an objective to the labels (of a language model: takes their place). How all of them were tuned "
        f"alike, and every figure: [{_README[3:]}]({_README}). {_compared(cases)}",
        *(_case(case) for case in cases),
        _together(cases),
    ]
    return "\n\n".join(blocks) + "\n"


def _compared(cases: list[Facts]) -> str:
    count = sum(len(verdicts(case, key).all) for case in cases for key in ("over_control", "over_reference"))
    return (
        f'"Better" and "worse" mean that a row\'s 95 % interval excludes 0. These are {count} intervals, each by '
        f"itself: where nothing differed at all, about {_CHANCE * count:.0f} of them would exclude 0 too."
    )


def _case(case: Facts) -> str:
    shown, language = _teller(case), case["metric"] != "accuracy"
    control, reference = _only_without(case, "over_control"), _only_without(case, "over_reference")
    kind, scale = ("perplexity", 1) if language else ("test", 100)
    level = "perplexity" if language else "% accuracy"
    ends = [("teacher", case["teacher"])] + [(name, case["rows"][name]) for name in (control, reference) if name]
    levels = ", ".join(f"{name} {scale * row[kind]['value']:.1f}" for name, row in ends)
    lines = [
        f"**{case['title']}** ({len(case['seeds'])} seeds, {case['steps']} steps a training; {level}: {levels})",
        "",
    ]
    if control:
        found = verdicts(case, "over_control")
        gains = [f"{name} ({shown(case['rows'][name]['over_control']['value'])})" for name in found.better]
        unit = "nats a token" if language else "points of accuracy"
        lines += [
            f"- Better than {control}, by {unit}: {_listed(gains)}.",
            f"- Not to be told from {control}: {_listed(found.unclear)}.",
            f"- Worse than {control}: {_listed(found.worse)}.",
        ]
    if reference:
        found = verdicts(case, "over_reference")
        by = " (by KL to the teacher)" if language else ""
        lines.append(
            f"- Better than {reference}{by}: {_listed(found.better)}. Worse: {_listed(found.worse)}."
            if found.better
            else f"- No row beat {reference}{by} with an interval that excludes 0. Worse: {_listed(found.worse)}."
        )
    lines += [f"- {name} failed: {why}" for name, why in case.get("failed", {}).items()]
    return "\n".join(lines)


def _together(cases: list[Facts]) -> str:
    """What holds over all cases."""
    lines = ["**Together**", ""]
    for key in ("over_control", "over_reference"):
        found = [verdicts(case, key) for case in cases]
        other = next((name for case in cases if (name := _only_without(case, key))), None)
        if other is None:
            continue
        better, worse = ({name for one in found for name in one[part]} for part in (_BETTER, _WORSE))
        names = list(dict.fromkeys(name for one in found for name in one.all))
        always = [n for n in names if all(n in one.better for one in found if n in one.all)]
        mostly = [n for n in names if n in better and n not in worse and n not in always]
        lines += [
            f"- Better than {other} in every case that has the row: {_listed(always)}.",
            f"- Better than {other} in some case and worse in none: {_listed(mostly)}.",
            f"- Worse than {other} in some case: {_listed([n for n in names if n in worse])}.",
        ]
    return "\n".join(lines)


def _only_without(case: Facts, key: str) -> str | None:
    """The one row that has no difference `key`; None where it was not trained to the end."""
    lacking = [name for name, row in case["rows"].items() if key not in row]
    return lacking[0] if len(lacking) == 1 < len(case["rows"]) else None


def _teller(case: Facts) -> Callable[[float], str]:
    return (lambda value: f"{100 * value:+.1f}") if case["metric"] == "accuracy" else (lambda value: f"{value:+.3f}")


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
