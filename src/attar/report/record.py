"""The report's last part, for those who must answer for it: conditions, policy, lineage, stages, recipe."""

from __future__ import annotations

from attar.facts import Interval, Measurement, RunFacts, SignalsFacts
from attar.recipe.text import write
from attar.report import numbers as say
from attar.report.headline import artifact_name
from attar.report.joules import methods
from attar.report.markup import Child, Column, Html, definition_list, table, tag


def conditions(run: RunFacts) -> Html:
    """What each number rests on."""
    found: list[tuple[str, Child]] = []
    intervals: list[tuple[str, Interval | None]] = [
        (f"{say.metric_name(run.quality.metric).capitalize()} of the student", run.quality.intervals.get("student")),
        ("Quality kept", run.retention),
        ("Gain from the teacher", run.kd_gain),
        ("Agreement", run.evaluation.agreement),
    ]
    found += [(name, f"{say.confidence(i)}; {i.method}") for name, i in intervals if i is not None]
    timed = [("Teacher", run.teacher.latency), ("Student", run.student.latency)]
    timed += [(artifact_name(a), a.latency) for a in run.artifacts]
    found += [
        (f"Latency, {name.lower() if name in ('Teacher', 'Student') else name}", _timing(m)) for name, m in timed if m
    ]
    rows = run.data.rows
    found += [
        ("Size", "a model: its fp32 safetensors weights; a file: everything needed to run it, the tokenizer apart"),
        ("Rows", ", ".join(f"{name} {say.count(number)}" for name, number in rows.items())),
        *([] if run.signals is None or run.signals.tokens is None else [("Stored signals", _stored(run.signals))]),
        ("Test split", "read once, after everything was chosen on validation"),
        ("Energy", _energy(run)),
    ]
    cleaned = [
        (run.data.overlap_removed, "removed from train because they also stand in validation or test"),
        (run.data.duplicates, "stand more than once within train (kept)"),
        (run.data.truncated, "were longer than the limit (cut)"),
    ]
    told = [f"{say.count(number)} rows {what}" for number, what in cleaned if number]
    found.append(("Data", "; ".join([*told, *run.data.notes]) or "no overlaps, no duplicates, no row cut"))
    notes = [tag("li", note) for note in run.evaluation.notes]
    return tag(
        "section",
        tag("h2", "Conditions of the numbers"),
        definition_list(found),
        tag("ul", notes, class_="note") if notes else None,
        id="conditions",
    )


def _energy(run: RunFacts) -> str:
    if run.energy is None:
        return "not measured: the attar that made this run had no energy meter"
    return f"{methods(run.energy)}; of inference: medians of interleaved repeats, each model in a process of its own"


def _stored(signals: SignalsFacts) -> str:
    held = f"{say.count(signals.tokens or 0)} tokens, {signals.bytes_per_token or 0:.1f} bytes each"
    if signals.spot_check is None:
        return f"{held}, labelled once by this run"
    return f"{held}, made before; of rows asked again {say.percent(signals.spot_check)} of a token stands elsewhere"


def policy(run: RunFacts) -> Html:
    """May the teacher be distilled, who says so, and what passes on."""
    p = run.policy
    facts: list[tuple[str, Child]] = [
        ("Teacher", tag("bdi", p.teacher)),
        ("Licence", f"{p.licence or 'not stated'}{', by the strictest terms' if p.members else ''}"),
        ("Verdict", f"{p.verdict} (row {p.rule})"),
        ("Why", p.reason),
        ("Source", f"{p.source}; read {p.date}"),
    ]
    if p.decided_by:
        facts.append(("Decided by", p.decided_by))
    for one in p.members:
        own = f", {one.licence or 'licence not stated'}; {one.verdict} (row {one.rule})"
        facts.append(("One of the teachers", tag("span", tag("bdi", one.name), own)))
    if p.start:
        own = f", {p.start.licence or 'licence not stated'}; {p.start.verdict} (row {p.start.rule})"
        facts.append(("The student starts from", tag("span", tag("bdi", p.start.name), own)))
    if p.student_licence:
        facts.append(("Licence of the student", p.student_licence))
    if p.student_name_prefix:
        facts.append(
            ("Name of the student", f"begins with \u201c{p.student_name_prefix}\u201d where it is distributed")
        )
    if not p.distribute:
        facts.append(("Distribution", tag("strong", "the student must not be distributed")))
    if p.notices:
        facts.append(("Passes on", tag("ul", [tag("li", notice) for notice in p.notices])))
    return tag(
        "section",
        tag("h2", "Terms of the teacher"),
        definition_list(facts),
        tag("p", p.disclaimer, class_="note"),
        id="policy",
    )


def lineage(run: RunFacts) -> Html:
    """Hashes of what went in, versions of what worked on it."""
    found = run.lineage
    columns = [Column(n, numeric=False) for n in ("Role", "Name", "Revision", "Hash", "Licence")]
    rows: list[list[Child]] = [
        [s.role, tag("bdi", s.name), tag("code", s.revision or say.DASH), tag("code", s.hash), s.licence or say.DASH]
        for s in found.sources
    ]
    facts: list[tuple[str, Child]] = [
        ("Recipe", tag("code", found.recipe_hash)),
        ("Code", ", ".join(f"{name} {value}" for name, value in found.code.items())),
        ("Packages", ", ".join(f"{name} {value}" for name, value in found.packages.items())),
        ("Machine", ", ".join(f"{name} {value}" for name, value in found.machine.items())),
        ("Made", found.created.replace("T", " ").replace("+00:00", " UTC")),
    ]
    return tag("section", tag("h2", "Lineage"), table("Sources", columns, rows), definition_list(facts), id="lineage")


def stages(run: RunFacts) -> Html | None:
    """What was done, how long it took, and what was done before."""
    if not run.stages:
        return None
    columns = [
        Column("Stage", numeric=False),
        Column("Time"),
        Column("State", numeric=False),
        Column("Key", numeric=False),
    ]
    rows: list[list[Child]] = [
        [s.name, say.seconds(s.seconds), "done before" if s.cached else "done now", tag("code", s.key)]
        for s in run.stages
    ]
    total = f"{say.seconds(sum(s.seconds for s in run.stages))} of work in all."
    inner = table("Stages of the run", columns, rows, hide=True)
    return tag("section", tag("h2", "Stages"), inner, tag("p", total, class_="note"), id="stages")


def recipe(run: RunFacts) -> Html:
    """The whole recipe, defaults spelled out."""
    text = tag("pre", tag("code", write(dict(run.recipe))), tabindex="0")
    return tag(
        "section", tag("h2", "Recipe"), tag("details", tag("summary", "Show the recipe (YAML)"), text), id="recipe"
    )


def _timing(m: Measurement) -> str:
    p95 = f", 95th percentile {say.milliseconds(m.p95)}" if m.p95 is not None else ""
    threads = f"{m.threads} thread{'s' if m.threads != 1 else ''}"
    return f"median of {m.n} repeats{p95}; {m.device}, {threads}, {m.dtype}; {m.method}"
