"""The report's first screens: headline, warnings, the models side by side, what the teacher added, the budget."""

from __future__ import annotations

from attar.facts import ArtifactFacts, BudgetFacts, Interval, Measurement, ModelFacts, RunFacts
from attar.report import numbers as say
from attar.report.figures import Mark, Role, bars, dots, figure, key
from attar.report.headline import artifact_name, faster, kept, sentence, shipped, smaller
from attar.report.markup import Child, Column, Html, definition_list, join, table, tag

NONE = tag("span", say.NOT_MEASURED, class_="none")
_BLANK = tag("span", say.DASH, class_="none")


def header(run: RunFacts, title: str) -> Html:
    """The headline with its four figures."""
    what = f" {run.recipe['description']}" if run.recipe.get("description") else ""
    # A teacher that was built from a configuration has no name of its own.
    name = f" ({run.teacher.name})" if run.teacher.name != "config" else ""
    lede = (
        f"A student of {say.compact(run.student.params)} parameters, distilled from a teacher of "
        f"{say.compact(run.teacher.params)}{name}.{what}"
    )
    return tag(
        "header",
        tag("p", "attar", tag("span", "distillation report"), class_="eyebrow"),
        tag("p", title, class_="title", dir="auto"),
        tag("h1", sentence(run)),
        tag("p", lede, class_="lede", dir="auto"),
        definition_list(_tiles(run), class_="tiles"),
        class_="masthead",
    )


def notices(run: RunFacts) -> Html | None:
    """What must be read before any number: missed budgets, warnings, and what data without labels means."""
    missed = [f"Budget missed: {budget_name(line)}: {_budget_text(line)}." for line in run.budget if line.met is False]
    loud = [*missed, *run.warnings]
    parts: list[Html] = []
    if loud:
        title = "1 warning" if len(loud) == 1 else f"{len(loud)} warnings"
        items = [tag("li", line, dir="auto") for line in loud]
        parts.append(tag("section", tag("h2", title), tag("ul", items), class_="alarm", aria_label="Warnings"))
    if not run.data.labelled:
        parts.append(
            tag(
                "section",
                tag("h2", "This data has no labels"),
                tag(
                    "p",
                    "Agreement with the teacher is the metric. There is no control, because a control learns from "
                    "labels; whether teacher or student is right is unknown.",
                ),
                class_="notice",
                aria_label="About this data",
            )
        )
    return join(parts) if parts else None


def models(run: RunFacts) -> Html:
    """Teacher, controls, student and every exported file: size, quality, speed."""
    metric = run.quality.metric
    figures: list[Html] = []
    values = [m for m in _quality_marks(run) if m.value is not None]
    if values:
        title = f"{say.metric_name(metric).capitalize()} on test"
        figures.append(figure(title, dots(title, values, lambda v: say.quality(metric, v)), _interval_note(run)))
    figures.append(figure("Size", bars("Size", _size_marks(run), say.size), "fp32 weights; all files of an export"))
    speed = _latency_marks(run)
    if any(m.value is not None for m in speed):
        note = "median, one row at a time"
        figures.append(figure("Latency", bars("Latency", speed, say.milliseconds), note))
    quality = say.metric_name(metric).capitalize()
    names = ["Model", "Parameters", "Size", quality, "Of the teacher", "Latency", "FLOPs a row"]
    columns = [Column(name, numeric=i > 0) for i, name in enumerate(names)]
    rows: list[list[Child]] = [_model_row(run, "teacher", "Teacher", run.teacher, "reference")]
    if run.control is not None:
        rows.append(_model_row(run, "control", "Control", run.control, None))
        if run.quality.control_random is not None:
            rows.append(_model_row(run, "control_random", "Control, random start", run.control, None))
    rows.append(_model_row(run, "student", "Student", run.student, run.retention))
    rows += [_artifact_row(run, a) for a in run.artifacts]
    file = shipped(run)
    marked = next((len(rows) - len(run.artifacts) + i for i, a in enumerate(run.artifacts) if a is file), len(rows) - 1)
    notes = [f"{name}: {facts.note}." for name, facts in _model_facts(run) if facts.note]
    notes += [f"{artifact_name(a)}: {a.note}." for a in run.artifacts if a.note]
    return tag(
        "section",
        tag("h2", "The models side by side"),
        tag("div", figures, class_="trio"),
        key(
            [
                ("teacher", "teacher"),
                *([("control", "control")] if run.control else []),
                ("student", "student, exports"),
            ]
        ),
        table("Size, quality and latency", columns, rows, marked=[marked], hide=True),
        tag(
            "p",
            "The control is the same student with the same start, inputs, order and steps, trained on the "
            f"{'text' if run.task == 'causal_lm' else 'labels'} without a teacher. "
            if run.control is not None
            else None,
            "The marked row is the smallest file: the one to ship. " if file else None,
            f"Accuracies of student and control are means over {len(run.seeds)} seeds; the files are those of the seed "
            "that was best on validation. "
            if len(run.seeds) > 1
            else None,
            " ".join(notes),
            class_="note",
        ),
        id="models",
    )


def gain(run: RunFacts) -> Html | None:
    """What distillation added over the same student on the labels alone."""
    if run.quality.student is None:
        return None
    if run.kd_gain is None:
        line: Child = "Not measured: no control was trained (training.control: off)."
    else:
        above, below = ("better", "worse") if say.lower_is_better(run.quality.metric) else ("above zero", "below zero")
        clear = f"clearly {above}" if run.kd_gain.lo > 0 else below if run.kd_gain.hi < 0 else "not distinct from zero"
        line = [
            tag("strong", say.difference_interval(run.quality.metric, run.kd_gain)),
            f" {say.than(run.quality.metric)} the control, {clear} ({say.confidence(run.kd_gain)}).",
        ]
    extra: list[str] = []
    if run.evaluation.mcnemar_p is not None:
        extra.append(f"McNemar\u2019s exact test, student against control: {say.p_value(run.evaluation.mcnemar_p)}.")
    extra.append(_agreement(run))
    if run.evaluation.kl_to_teacher is not None:
        extra.append(f"Mean divergence from the teacher: {say.decimals(run.evaluation.kl_to_teacher, 3)} nats.")
    body = [tag("p", line, class_="statement"), tag("p", " ".join(extra))]
    return tag("section", tag("h2", "What the teacher added"), body, id="gain")


def _agreement(run: RunFacts) -> str:
    if run.evaluation.agreement is None:
        return "The student\u2019s tokenizer cuts every test text otherwise: no token could be compared one by one."
    share = say.share(run.evaluation.agreement)
    if run.task != "causal_lm":
        return f"The student gives the teacher\u2019s answer to {share} of the test rows."
    return f"Student and teacher have the same likeliest token for {share} of the test tokens."


def budget(run: RunFacts) -> Html | None:
    """Each limit, and whether it was met."""
    if not run.budget:
        return None
    columns = [Column("Limit", numeric=False), Column("Allowed"), Column("Found"), Column("Result", numeric=False)]
    rows: list[list[Child]] = []
    for line in run.budget:
        word, kind = {
            True: ("\u2713 met", "met"),
            False: ("\u2717 missed", "missed"),
            None: ("? not measured", "open"),
        }[line.met]
        found = NONE if line.value is None else _amount(line, line.value)
        note = tag("span", line.note, class_="note") if line.note and line.note != say.NOT_MEASURED else None
        rows.append(
            [[budget_name(line), note], _amount(line, line.limit), found, tag("span", word, class_=f"badge {kind}")]
        )
    return tag("section", tag("h2", "Budget"), table("Budget", columns, rows, hide=True), id="budget")


def budget_name(line: BudgetFacts) -> str:
    """A line of the budget in words."""
    names = {
        "max_params": "Parameters, at most",
        "max_bytes": "Size of the smallest file, at most",
        "max_latency_ms": "Latency of the fastest file, at most",
        "min_retention": "Quality kept, at least",
    }
    return names.get(line.name, line.name.replace("_", " "))


def value_of(metric: str, value: float | None) -> Child:
    """A metric's value in a cell, a dash where there is none."""
    return _BLANK if value is None else say.quality(metric, value)


def _budget_text(line: BudgetFacts) -> str:
    found = say.NOT_MEASURED if line.value is None else _amount(line, line.value)
    return f"{found}, the limit is {_amount(line, line.limit)}"


def _amount(line: BudgetFacts, value: float) -> str:
    match line.unit:
        case "parameters":
            return say.count(value)
        case "bytes":
            return say.size(value)
        case "ms":
            return say.milliseconds(value)
        case _ if line.name == "min_retention":
            return say.percent(value, 2)
        case _:
            return f"{value:g}{say.NBSP}{line.unit}"


def _tiles(run: RunFacts) -> list[tuple[str, Child]]:
    file = shipped(run)
    own = f"{say.size(file.bytes)} as {artifact_name(file)}" if file else f"{say.size(run.student.bytes)} of weights"
    tiles: list[tuple[str, Child]] = []
    if (found := kept(run)) is not None:
        label = "Answers shared" if found.of == "answers" else "Quality kept"
        if say.lower_is_better(run.quality.metric):
            label = f"{say.metric_name(run.quality.metric).capitalize()}, teacher\u2019s over student\u2019s"
        range_ = f"{say.bounds('agreement', found.interval)}, {say.confidence(found.interval)}; {found.by}"
        tiles.append((label, _tile(say.percent(found.interval.value), range_)))
    fold = smaller(run)
    word = "Smaller" if fold >= 1 else "Larger"
    tiles.append((word, _tile(say.times(max(fold, 1 / fold)), f"{say.size(run.teacher.bytes)} \u2192 {own}")))
    latency = file.latency if file else run.student.latency
    ratio = faster(run)
    if ratio is None or latency is None or run.teacher.latency is None:
        tiles.append(("Faster", _tile("\u2013", "latency was not measured")))
    else:
        change = f"{say.milliseconds(run.teacher.latency.value)} \u2192 {say.milliseconds(latency.value)} a row"
        word = "Faster" if ratio >= 1 else "Slower"
        tiles.append((word, _tile(say.times(max(ratio, 1 / ratio)), f"{change}; {_where(latency)}")))
    if run.kd_gain is not None:
        change = say.difference(run.quality.metric, run.kd_gain.value)
        told = say.difference_bounds(run.quality.metric, run.kd_gain)
        way = f" {change.partition(say.NBSP)[2]}" if say.lower_is_better(run.quality.metric) else ""
        detail = f"{told}{way} {say.than(run.quality.metric)} the same student without teacher"
        tiles.append(("Gain from the teacher", _tile(change.replace("points", "pts"), detail)))
    return tiles


def _tile(value: str, detail: str) -> Html:
    return join(tag("span", value, class_="big"), tag("span", detail, class_="note"))


def _model_facts(run: RunFacts) -> list[tuple[str, ModelFacts]]:
    found = [("Teacher", run.teacher), ("Control", run.control), ("Student", run.student)]
    return [(name, facts) for name, facts in found if facts is not None]


def _quality_marks(run: RunFacts) -> list[Mark]:
    q = run.quality
    roles: list[tuple[str, str, Role, float | None]] = [
        ("Teacher", "teacher", "teacher", q.teacher),
        ("Random start", "control_random", "control", q.control_random),
        ("Control", "control", "control", q.control),
        ("Student", "student", "student", q.student),
    ]
    marks = [_mark(label, role, value, q.intervals.get(name)) for label, name, role, value in roles]
    return marks + [_mark(artifact_name(a), "student", a.quality, a.quality_interval) for a in run.artifacts]


def _mark(label: str, role: Role, value: float | None, interval: Interval | None) -> Mark:
    return Mark(label, role, value, interval.lo if interval else None, interval.hi if interval else None)


def _size_marks(run: RunFacts) -> list[Mark]:
    marks = [Mark("Teacher", "teacher", run.teacher.bytes), Mark("Student", "student", run.student.bytes)]
    return marks + [Mark(artifact_name(a), "student", a.bytes) for a in run.artifacts]


def _latency_marks(run: RunFacts) -> list[Mark]:
    found: list[tuple[str, Role, Measurement | None]] = [
        ("Teacher", "teacher", run.teacher.latency),
        ("Student", "student", run.student.latency),
        *((artifact_name(a), "student", a.latency) for a in run.artifacts),
    ]
    return [Mark(label, role, latency.value if latency else None) for label, role, latency in found]


def _interval_note(run: RunFacts) -> str | None:
    found = run.quality.intervals.get("student")
    return f"bars: {say.percent(found.confidence, 0)} interval, {say.count(found.n)} rows" if found else None


def _model_row(run: RunFacts, role: str, label: str, facts: ModelFacts, of: Interval | str | None) -> list[Child]:
    value, interval = getattr(run.quality, role, None), run.quality.intervals.get(role)
    if run.quality.student is None and role == "student":
        interval = run.evaluation.agreement
        value = None if interval is None else interval.value
    return [
        label,
        say.count(facts.params),
        say.size(facts.bytes),
        _BLANK if run.quality.student is None and role != "student" else _quality(run.quality.metric, value, interval),
        of if isinstance(of, str) else _share(of),
        _latency(facts.latency),
        say.compact(facts.flops) if facts.flops is not None else NONE,
    ]


def _artifact_row(run: RunFacts, facts: ArtifactFacts) -> list[Child]:
    beside = "image processor" if run.task == "image_classification" else "tokenizer"
    return [
        artifact_name(facts),
        _BLANK,
        [say.size(facts.bytes), tag("span", f"+ {say.size(facts.tokenizer_bytes)} {beside}", class_="note")]
        if facts.tokenizer_bytes
        else say.size(facts.bytes),
        _BLANK if run.quality.student is None else _quality(run.quality.metric, facts.quality, facts.quality_interval),
        _share(facts.retention),
        _latency(facts.latency),
        _BLANK,
    ]


def _quality(metric: str, value: float | None, interval: Interval | None) -> Child:
    if value is None:
        return NONE
    return [say.quality(metric, value), tag("span", say.bounds(metric, interval), class_="note") if interval else None]


def _share(interval: Interval | None) -> Child:
    if interval is None:
        return _BLANK
    return [say.percent(interval.value), tag("span", say.bounds("agreement", interval), class_="note")]


def _latency(latency: Measurement | None) -> Child:
    if latency is None:
        return NONE
    spread = f"{say.decimals(latency.lo, 2)}{say.NBSP}{say.DASH}{say.NBSP}{say.decimals(latency.hi, 2)}"
    return [say.milliseconds(latency.value), tag("span", spread, class_="note")]


def _where(latency: Measurement) -> str:
    return f"{latency.device}, {latency.threads} thread{'s' if latency.threads != 1 else ''}"
