"""Where the student lost: by class, by pair, by slice, and row by row."""

from __future__ import annotations

import re

from attar.facts import ClassFacts, ConfusionFacts, ExampleFacts, RunFacts
from attar.report import numbers as say
from attar.report.figures import dumbbells, figure, key
from attar.report.markup import Child, Column, Html, table, tag
from attar.report.overview import NONE, value_of

MAX_CLASSES = 12
MAX_ROWS = 250
MAX_TEXT = 360
MAX_IMAGE_BYTES = 160_000
_PNG = "data:image/png;base64,"


def losses(run: RunFacts) -> Html | None:
    """Classes, pairs and slices where the student fell behind the teacher."""
    found = run.evaluation
    left, right, below = _lost_most(found.classes), list[Html](), list[Html]()
    if found.confusions:
        right = [tag("h3", "Pairs confused more often"), _pair_table(found.confusions)]
    if found.slices:
        caption = f"{say.metric_name(run.quality.metric).capitalize()} by slice"
        below += [tag("h3", "Slices"), _class_table(caption, "Slice", found.slices, run.quality.metric)]
    if found.classes:
        rows = sorted(found.classes, key=_change)
        label = f"All {len(rows)} classes" if len(rows) <= MAX_ROWS else f"The {MAX_ROWS} classes that lost most"
        inner = _class_table("Recall by class", "Class", rows[:MAX_ROWS], "accuracy")
        below.append(tag("details", tag("summary", label), inner))
    columns = [tag("div", part) for part in (left, right) if part]
    if not columns and not below:
        return None
    return tag("section", tag("h2", "Where it lost"), tag("div", columns, class_="pair"), below, id="losses")


def examples(run: RunFacts) -> Html | None:
    """Rows where teacher and student differ; only where the recipe shows them."""
    section = run.recipe.get("report")
    if isinstance(section, dict) and section.get("examples") is False:
        return None
    if not run.evaluation.examples:
        return None
    columns = [
        Column("Input", numeric=False, wide=True),
        Column("Teacher", numeric=False),
        Column("Student", numeric=False),
    ]
    labelled = any(e.truth is not None for e in run.evaluation.examples)
    if labelled:
        columns.insert(1, Column("Truth", numeric=False))
    left = MAX_IMAGE_BYTES
    rows: list[list[Child]] = []
    for example in run.evaluation.examples:
        image = (
            example.image if example.image and example.image.startswith(_PNG) and len(example.image) <= left else None
        )
        left -= len(image or "")
        row: list[Child] = [
            _input(example, image),
            _answer(example.teacher, example.teacher_confidence, example.truth),
            _answer(example.student, example.student_confidence, example.truth),
        ]
        if labelled:
            row.insert(1, _user(example.truth) if example.truth is not None else NONE)
        rows.append(row)
    return tag(
        "section",
        tag("h2", "Where teacher and student differ"),
        tag(
            "p",
            "Test rows on which the student lost most, by token. "
            if run.task == "causal_lm"
            else "Test rows with different answers, those first where both are surest. ",
            tag("code", "report.examples: off"),
            " hides them.",
        ),
        table("Examples", columns, rows, hide=True),
        id="examples",
    )


def _lost_most(classes: list[ClassFacts]) -> list[Html]:
    lost = [(c.name, c.teacher, c.student) for c in classes if c.teacher is not None and c.student < c.teacher]
    if not lost:
        return []
    lost.sort(key=lambda row: row[2] - row[1])
    title = "Classes that lost most"
    note = f"recall, teacher to student; {len(lost)} of {len(classes)} classes lost"
    drawing = dumbbells(title, lost[:MAX_CLASSES], lambda v: say.percent(v, 0))
    return [figure(title, drawing, note), key([("teacher", "teacher"), ("student", "student")])]


def _change(facts: ClassFacts) -> float:
    return 0.0 if facts.teacher is None else facts.student - facts.teacher


def _pair_table(confusions: list[ConfusionFacts]) -> Html:
    columns = [Column("Truth", numeric=False), Column("Answer", numeric=False), Column("Teacher"), Column("Student")]
    rows: list[list[Child]] = [[_user(c.truth), _user(c.answer), str(c.teacher), str(c.student)] for c in confusions]
    return table("Test rows with this truth and answer", columns, rows)


def _class_table(caption: str, head: str, rows: list[ClassFacts], metric: str) -> Html:
    columns = [
        Column(head, numeric=False),
        *(Column(n) for n in ("Rows", "Teacher", "Student", "Control", "Difference")),
    ]
    cells: list[list[Child]] = [
        [
            _user(c.name),
            say.count(c.n),
            value_of(metric, c.teacher),
            value_of(metric, c.student),
            value_of(metric, c.control),
            say.difference(metric, say.better_by(metric, c.student, c.teacher)) if c.teacher is not None else NONE,
        ]
        for c in rows
    ]
    return table(caption, columns, cells)


def _input(example: ExampleFacts, image: str | None) -> Child:
    parts: list[Child] = []
    if image is not None:
        parts.append(tag("img", src=image, alt="test image", width=72))
    elif example.image is not None:
        parts.append(tag("span", "image left out to keep the report small", class_="none"))
    if example.text is not None:
        parts.append(_user(example.text if len(example.text) <= MAX_TEXT else f"{example.text[:MAX_TEXT]} \u2026"))
    return parts


def _answer(answer: str, sure: float | None, truth: str | None) -> Child:
    right = {True: ("\u2713", "right"), False: ("\u2717", "wrong"), None: None}[
        None if truth is None else answer == truth
    ]
    sign = tag("span", right[0], class_=right[1], role="img", aria_label=right[1]) if right else None
    note = tag("span", f"{say.percent(sure, 0)} sure", class_="note") if sure is not None else None
    return [sign, say.NBSP if sign else None, _user(answer), note]


def _user(value: str) -> Html:
    """Text of the user's data: isolated, so that its direction reorders nothing; may break after a name's joints."""
    parts = re.split(r"(?<=[_/.-])(?=\w)", value)
    return tag("bdi", parts[0], [[tag("wbr"), part] for part in parts[1:]])
