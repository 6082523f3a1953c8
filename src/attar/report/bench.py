"""What `attar bench` found, for people: tables of plain text, and `bench.html` with quality against latency."""

from __future__ import annotations

from attar.facts import BatchFacts, BenchedFacts, BenchFacts, Measurement
from attar.report import numbers as say
from attar.report.figures import Role, figure
from attar.report.html import document
from attar.report.joules import ESTIMATED, amount, payback, share
from attar.report.markup import Child, Column, Html, definition_list, table, tag
from attar.report.overview import NONE
from attar.report.scatter import Point, scatter
from attar.report.text_table import aligned

_ROLES: dict[str, Role] = {"teacher": "teacher", "control": "control", "student": "student", "file": "student"}
_MODELS = ["model", "bytes", "quality", "load", "break-even"]
_TIMES = ["model", "median", "95 %", "rows/s", "faster", "peak memory", "energy of 1,000 rows", "of the reference"]

_WORDY = {"break-even", "faster", "energy of 1,000 rows", "of the reference"}
"""Columns that are wider than a number, and may take two lines."""


def lines(facts: BenchFacts) -> list[str]:
    """For a terminal: a table of the models, one a batch size, then what is not measured and why."""
    told = aligned([_MODELS, *(_model(facts, one) for one in facts.models)])
    for size in _sizes(facts):
        told += ["", f"{_how(facts, size)}, {facts.repeats} interleaved repeats"]
        told += aligned([_times_head(facts), *_times_rows(facts, size)])
    return [say.plain(line) for line in [*told, "", *_notes(facts)]]


def render(facts: BenchFacts) -> str:
    """`bench.html`, in the style of the report: one file that asks the network for nothing."""
    title = f"{facts.run}: measured side by side"
    models = [_model(facts, one) for one in facts.models]
    parts = [
        tag("section", tag("h2", "Quality against latency"), _chart(facts)),
        tag("section", tag("h2", "Models and files"), _table("Models and files", _MODELS, models)),
    ]
    for size in _sizes(facts):
        caption = _how(facts, size).capitalize()
        inner = _table(caption, _times_head(facts), _times_rows(facts, size))
        parts.append(tag("section", tag("h2", caption), inner))
    notes = tag("ul", [tag("li", note) for note in _notes(facts)], class_="note")
    parts.append(tag("section", tag("h2", "Conditions of the numbers"), notes, definition_list(_conditions(facts))))
    body = [
        tag("header", tag("p", "attar", tag("span", "bench"), class_="eyebrow"), tag("h1", title), class_="masthead"),
        tag("main", parts, id="report"),
    ]
    return document(f"{title} \u2013 attar bench", title, body)


def _chart(facts: BenchFacts) -> Html:
    size = min(_sizes(facts), default=1)
    points: list[Point] = []
    for one, found in _with(facts, size):
        if one.quality is not None:
            bounds = (
                (None, None) if one.quality_interval is None else (one.quality_interval.lo, one.quality_interval.hi)
            )
            points.append(Point(one.name, _ROLES[one.role], found.latency.value, one.quality, *bounds))
    if not points:
        return tag("p", "Not measured: no model has both a quality and a latency.")
    name = say.metric_name(facts.metric)
    title = f"{name.capitalize()} against latency"
    drawing = scatter(title, points, lambda value: say.quality(facts.metric, value), name)
    return figure(title, drawing, f"{_how(facts, size)}, medians")


def _table(caption: str, names: list[str], rows: list[list[str]]) -> Html:
    columns = [Column(name.capitalize(), numeric=at > 0 and name not in _WORDY) for at, name in enumerate(names)]
    cells: list[list[Child]] = [[NONE if cell == say.NOT_MEASURED else cell for cell in row] for row in rows]
    return table(caption, columns, cells, hide=True)


def _model(facts: BenchFacts, one: BenchedFacts) -> list[str]:
    return [
        one.name,
        say.size(one.bytes),
        say.quality(facts.metric, one.quality),
        say.NOT_MEASURED if one.load_seconds is None else say.milliseconds(1000 * one.load_seconds),
        say.DASH if one.break_even is None else payback(one.break_even),
    ]


def _times_head(facts: BenchFacts) -> list[str]:
    return [*_TIMES[:3], "tokens/s", *_TIMES[3:]] if _reads_tokens(facts) else _TIMES


def _times_rows(facts: BenchFacts, size: int) -> list[list[str]]:
    tokens = _reads_tokens(facts)
    return [[one.name, *_times(found, tokens=tokens)] for one, found in _with(facts, size)]


def _times(found: BatchFacts, *, tokens: bool) -> list[str]:
    p95, read, fast = found.latency.p95, found.tokens_per_second, found.faster
    kind = f", {ESTIMATED}" if found.energy.estimated else ""
    return [
        say.milliseconds(found.latency.value),
        say.DASH if p95 is None else say.milliseconds(p95),
        *([] if not tokens else [say.DASH if read is None else say.count(read)]),
        say.count(found.rows_per_second),
        "reference" if fast is None else f"{_fold(fast.value)} ({_fold(fast.lo)} {say.DASH} {_fold(fast.hi)})",
        say.DASH if found.peak_bytes is None else say.size(found.peak_bytes),
        f"{amount(found.energy)}{kind}",
        "reference" if found.energy_share is None else share(found.energy_share),
    ]


def _fold(ratio: float) -> str:
    return f"{say.decimals(ratio, 3 if ratio < 0.1 else 2 if ratio < 10 else 1)}{say.TIMES}"


def _notes(facts: BenchFacts) -> list[str]:
    against = facts.reference
    found = ["the reference was not measured" if against is None else f"faster, of the reference: against {against}"]
    spared = {one.name: one.break_even.instead_of for one in facts.models if one.break_even is not None}
    for other in dict.fromkeys(spared.values()):
        found.append(f"break-even instead of {other}: {', '.join(name for name in spared if spared[name] == other)}")
    found += [f"{one.name}: {note}" for one in facts.models for note in one.notes]
    return [*found, *facts.notes]


def _conditions(facts: BenchFacts) -> list[tuple[str, Child]]:
    energy = next((found.energy.method for one in facts.models for found in one.batches), say.NOT_MEASURED)
    return [
        ("Asked", facts.row),
        ("Load", "from the runtime imported to the first answer; once"),
        ("Memory", "the most that the model\u2019s process has held, its runtime included"),
        *((say.raised(one.name), _method(one.batches[0].latency)) for one in facts.models if one.batches),
        ("Energy", energy),
        ("Machine", ", ".join(f"{name} {value}" for name, value in facts.machine.items())),
        ("Packages", ", ".join(f"{name} {value}" for name, value in facts.packages.items())),
        ("Made", facts.created.replace("T", " ").replace("+00:00", " UTC")),
    ]


def _method(latency: Measurement) -> str:
    return f"{latency.device}, {latency.dtype}; {latency.method}"


def _with(facts: BenchFacts, size: int) -> list[tuple[BenchedFacts, BatchFacts]]:
    return [(one, found) for one in facts.models for found in one.batches if found.batch == size]


def _sizes(facts: BenchFacts) -> list[int]:
    return sorted({found.batch for one in facts.models for found in one.batches})


def _reads_tokens(facts: BenchFacts) -> bool:
    return any(found.tokens_per_second is not None for one in facts.models for found in one.batches)


def _how(facts: BenchFacts, size: int) -> str:
    rows = "one row at a time" if size == 1 else f"batches of {size} rows"
    return f"{rows}, {facts.threads} thread{'s' if facts.threads != 1 else ''}"
