"""The report on energy: what an inference takes, teacher against student, what distilling took, and when it pays."""

from __future__ import annotations

from attar.facts import EnergyFacts, JoulesFacts, RunFacts
from attar.facts.energy import TOTAL
from attar.report import numbers as say
from attar.report.headline import artifact_name
from attar.report.joules import ESTIMATED, amount, is_estimated, methods, payback, share
from attar.report.markup import Child, Column, Html, table, tag
from attar.report.overview import NONE

_NAMES = {"teacher": "Teacher", "control": "Control", "control_random": "Control, random start", "student": "Student"}


def energy(run: RunFacts) -> Html | None:
    """The section; None for a run of an attar without a meter."""
    found = run.energy
    if found is None:
        return None
    paid, kind = found.break_even.get("student"), f" ({ESTIMATED})" if is_estimated(found) else ""
    statement: Child = "Not measured."
    if paid is not None:
        statement = ["The energy of distilling is paid back ", tag("strong", payback(paid)), f"{kind}."]
    elif found.total is not None:
        statement = ["Distilling took ", tag("strong", amount(found.total)), f"{kind}."]
    basis = "The student runs as the teacher does, each row by itself; files run through their own runtimes. "
    return tag(
        "section",
        tag("h2", "Energy"),
        tag("p", statement, class_="statement"),
        tag("p", basis if found.ratio else None, methods(found), ".", *_carbon(found), class_="note"),
        _models(run, found) if found.inference else None,
        _parts(found) if found.distilling else None,
        tag("ul", [tag("li", note) for note in found.notes], class_="note") if found.notes else None,
        id="energy",
    )


def _models(run: RunFacts, found: EnergyFacts) -> Html:
    names = ["Model", "FLOPs a row", "Processor time", "Energy", "Of the teacher", "Break-even"]
    columns = [Column(name, numeric=at > 0) for at, name in enumerate(names)]
    columns[-1] = Column(names[-1], numeric=False)
    flops = {"teacher": run.teacher.flops, "student": run.student.flops}
    flops |= {} if run.control is None else {"control": run.control.flops}
    files = {f"{a.kind}-{a.precision}": artifact_name(a) for a in run.artifacts}
    rows: list[list[Child]] = []
    for name, one in found.inference.items():
        ratio, paid, count = found.ratio.get(name), found.break_even.get(name), flops.get(name)
        rows.append(
            [
                files.get(name, _NAMES.get(name, name)),
                say.DASH if count is None else say.compact(count),
                say.seconds(one.cpu_seconds),
                _amount(one),
                "reference" if name == "teacher" else NONE if ratio is None else share(ratio),
                say.DASH if paid is None else payback(paid),
            ]
        )
    repeats = max(one.n for one in found.inference.values())
    caption = f"1,000 rows, one at a time, on one thread; {repeats} interleaved repeats"
    return table(caption, columns, rows)


def _parts(found: EnergyFacts) -> Html:
    names = ["Distilling", "Wall time", "Processor time", "Energy"]
    rows: list[list[Child]] = [
        [name.capitalize(), say.seconds(one.seconds), say.seconds(one.cpu_seconds), _amount(one)]
        for name, one in found.distilling.items()
    ]
    columns = [Column(name, numeric=at > 0) for at, name in enumerate(names)]
    marked = [at for at, name in enumerate(found.distilling) if name == TOTAL]
    return table("The whole distillation, part by part", columns, rows, marked=marked, hide=True)


def _amount(one: JoulesFacts) -> Child:
    return [amount(one), [" ", tag("span", ESTIMATED, class_="note")] if one.estimated else None]


def _carbon(found: EnergyFacts) -> list[str]:
    carbon = found.carbon
    if carbon is None:
        return []
    low, high = (say.grams(value) for value in carbon.distilling)
    return [
        f" As carbon: distilling {low} to {high} of CO2 equivalent, by {carbon.intensity:g} g a kilowatt-hour "
        f"({carbon.source}, {carbon.year}) and a PUE of {carbon.pue:g}."
    ]
