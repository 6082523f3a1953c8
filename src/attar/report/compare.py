"""Runs side by side: one line a measure, one column a run, each with its difference from the first run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attar.errors import AttarError
from attar.facts import Interval, RunFacts
from attar.report import numbers as say
from attar.report.headline import shipped
from attar.report.text_table import aligned


@dataclass(frozen=True)
class Row:
    """One measure over all runs. A difference is to the first run; None where one of the two is not measured."""

    name: str
    values: tuple[float | None, ...]
    differences: tuple[float | None, ...]
    shown: tuple[str, ...]
    """Value and difference as people read them."""


def compare_rows(runs: Sequence[RunFacts]) -> list[Row]:
    """The measures of at least one run. Raises AttarError without any."""
    if not runs:
        raise AttarError("compare: give at least one run's folder.")
    metric = runs[0].quality.metric
    points, percents = _change_points(metric), _change_percent
    rows = [
        _row(say.metric_name(metric), [r.quality.student for r in runs], lambda v: say.quality(metric, v), points),
        _row("of the teacher", [_value(r.retention) for r in runs], say.percent, _change_points("accuracy")),
        _row("agreement", [_value(r.evaluation.agreement) for r in runs], say.percent, _change_points("accuracy")),
        _row("gain over control", [_value(r.kd_gain) for r in runs], lambda v: say.difference(metric, v), points),
        _row("parameters", [float(r.student.params) for r in runs], say.count, percents),
        _row("weights", [float(r.student.bytes) for r in runs], say.size, percents),
        _row("smallest file", [_file_bytes(r) for r in runs], say.size, percents),
        _row("file quality", [_file_quality(r) for r in runs], lambda v: say.quality(metric, v), points),
        _row("file latency", [_latency(r) for r in runs], say.milliseconds, percents),
    ]
    return [row for row in rows if any(value is not None for value in row.values)]


def compare(runs: Sequence[RunFacts], names: Sequence[str] | None = None) -> str:
    """The table as text, with what stands against comparing the runs below it. `names`: None, those of the recipes."""
    rows = compare_rows(runs)
    lines = [
        ["", *(names or [r.name for r in runs])],
        *([row.name, *row.shown] for row in rows),
        ["budget", *map(_budget, runs)],
    ]
    return say.plain("\n".join([*aligned(lines), *(f"note: {caution}" for caution in cautions(runs))]))


def cautions(runs: Sequence[RunFacts]) -> list[str]:
    """Why the numbers of these runs may not compare."""
    found: list[str] = []
    if len({r.quality.metric for r in runs}) > 1:
        found.append("the runs have different metrics; their qualities do not compare.")
    if len({_data(r) for r in runs}) > 1:
        found.append("the runs rest on different data; differences in quality may come from that.")
    if len({r.teacher.name for r in runs}) > 1:
        found.append("the runs have different teachers; `of the teacher` does not compare.")
    if len({tuple(sorted(r.lineage.machine.items())) for r in runs}) > 1:
        found.append("the runs were made on different machines; their latencies do not compare.")
    return found


def _row(name: str, values: Sequence[float | None], written: say.Written, change: Callable[[float, float], str]) -> Row:
    first = values[0]
    differences = tuple(None if v is None or first is None else v - first for v in values)
    shown: list[str] = []
    for number, value in enumerate(values):
        text = "-" if value is None else written(value)
        told = f" ({change(value, first)})" if number and value is not None and first is not None else ""
        shown.append(text + told)
    return Row(name, tuple(values), differences, tuple(shown))


def _change_points(metric: str) -> Callable[[float, float], str]:
    return lambda value, first: say.difference(metric, say.better_by(metric, value, first))


def _change_percent(value: float, first: float) -> str:
    if first == 0:
        return "from 0"
    text = say.percent(value / first - 1)
    return text if text.startswith(say.MINUS) or value == first else f"+{text}"


def _value(interval: Interval | None) -> float | None:
    return None if interval is None else interval.value


def _file_bytes(run: RunFacts) -> float | None:
    file = shipped(run)
    return None if file is None else float(file.bytes)


def _file_quality(run: RunFacts) -> float | None:
    file = shipped(run)
    return None if file is None else file.quality


def _latency(run: RunFacts) -> float | None:
    file = shipped(run)
    return None if file is None or file.latency is None else file.latency.value


def _budget(run: RunFacts) -> str:
    if not run.budget:
        return "none"
    missed = [line.name for line in run.budget if line.met is False]
    unknown = [line.name for line in run.budget if line.met is None]
    if missed:
        return f"missed: {', '.join(missed)}"
    return f"met, but not measured: {', '.join(unknown)}" if unknown else "met"


def _data(run: RunFacts) -> tuple[str, ...]:
    return tuple(s.hash for s in run.lineage.sources if s.role == "data")
