"""`README.md` of the student: a Hugging Face model card whose every number comes from `run.json`.

Text of the run (names, labels, reasons) is escaped for Markdown and for the HTML that Markdown lets through.
"""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from pydantic import JsonValue

from attar.facts import Interval, Measurement, RunFacts
from attar.governance.table import rows as policy_rows
from attar.report import numbers as say
from attar.report.headline import artifact_name, sentence
from attar.report.joules import ESTIMATED, amount, energy_line, methods

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")
_METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "f1",
    "micro_f1": "f1",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "perplexity": "perplexity",
    "exact_match": "exact_match",
}
_PIPELINES = {
    "text_classification": "text-classification",
    "image_classification": "image-classification",
    "causal_lm": "text-generation",
}
_LABELS_SHOWN = 100


def model_card(run: RunFacts) -> str:
    """The card, metadata first."""
    parts = [
        f"---\n{_metadata(run).to_yaml()}\n---",
        f"# {_text(card_name(run))}",
        _text(say.plain(sentence(run))) + _description(run),
        _warnings(run),
        f"## Use\n\n{_use(run)}",
        f"## How it was made\n\n{_made(run)}",
        f"## Quality\n\n{_quality(run)}",
        f"## Energy\n\n{_energy(run)}",
        f"## Limits\n\n{_limits(run)}",
        f"## Terms\n\n{_terms(run)}",
        f"## Lineage\n\n{_lineage(run)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def card_name(run: RunFacts) -> str:
    """The student's name, with the prefix that the teacher's terms ask for."""
    prefix = run.policy.student_name_prefix
    return run.name if prefix is None or run.name.startswith(prefix) else f"{prefix}-{run.name}"


def _metadata(run: RunFacts) -> ModelCardData:
    data = _section(run, "data")
    source, teacher = str(data.get("source") or ""), _base_model(run)
    kind, task = _section(run, "student").get("kind"), _PIPELINES[run.task]
    extra: dict[str, Any] = {"base_model_relation": "finetune"} if teacher and kind == "from_teacher" else {}
    licence = run.policy.student_licence
    known = licence is not None and re.fullmatch(r"[a-z0-9.+-]+", licence) is not None
    metric, value = run.quality.metric, run.quality.student
    results: list[EvalResult] | None = None
    if value is not None and metric in _METRICS:
        results = [
            EvalResult(
                task_type=task,
                dataset_type=source or "unknown",
                dataset_name=source or "unknown",
                dataset_split=_test_split(run),
                dataset_revision=_revision(data),
                metric_type=_METRICS[metric],
                metric_name=f"Test {say.metric_name(metric)}",
                metric_value=round(value, 6),
            )
        ]
    return ModelCardData(
        license=licence if known else "other" if licence else None,
        license_name=None if known else licence,
        base_model=teacher,
        datasets=[source] if _HUB_ID.fullmatch(source) else None,
        metrics=[_METRICS[metric]] if metric in _METRICS else None,
        library_name="transformers",
        pipeline_tag=task,
        tags=["attar", "distillation", *sorted({artifact.kind for artifact in run.artifacts})],
        model_name=card_name(run),
        eval_results=results,
        **extra,
    )


def _base_model(run: RunFacts) -> str | None:
    """The teacher's id on the Hub, where it has one."""
    if run.policy.members:
        return None
    row = next((r for r in policy_rows() if r.id == run.policy.rule), None)
    if row is not None and row.hub is not None:
        return row.hub
    name = str(_section(run, "teacher").get("model") or "")
    name = f"timm/{name.removeprefix('timm:')}" if name.startswith("timm:") else name
    return name if _HUB_ID.fullmatch(name) and run.teacher.name == name else None


def _description(run: RunFacts) -> str:
    told = run.recipe.get("description")
    return f"\n\n{_text(str(told))}" if told else ""


def _warnings(run: RunFacts) -> str:
    missed = [f"the budget's {line.name} was missed" for line in run.budget if line.met is False]
    lines = [f"> - {_text(line)}" for line in [*missed, *run.warnings]]
    return "\n".join(["> **Warnings**", ">", *lines]) if lines else ""


def _use(run: RunFacts) -> str:
    problem = _section(run, "task").get("problem", "single_label")
    task = _PIPELINES[run.task]
    example, arguments = '"some text"', ""
    if run.task == "image_classification":
        example = '"image.png"'
    elif _section(run, "task").get("text_pair"):
        example = '{"text": "first text", "text_pair": "second text"}'
    if problem == "multi_label":
        arguments = ", top_k=None"
    elif problem == "regression":
        arguments = ', function_to_apply="none"'
    intended = f"It does {task.replace('-', ' ')} on inputs like those of {_text(_source(run))}"
    if run.data.labels:
        shown = ", ".join(_code(label) for label in run.data.labels[:_LABELS_SHOWN])
        more = len(run.data.labels) - _LABELS_SHOWN
        intended += f", with these labels: {shown}" + (f", and {more} more" if more > 0 else "")
    lines = [
        f"{intended}.",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        f'answer = pipeline("{task}", model="PATH_OR_REPOSITORY"{arguments})',
        f"print(answer({example}))",
        "```",
    ]
    calibration = run.evaluation.calibration
    if calibration is not None:
        lines += [
            "",
            f"For calibrated confidence, divide the logits by {calibration.temperature:.3f} before the softmax or "
            "sigmoid (fitted on validation; the exported files name it too).",
        ]
    return "\n".join(lines)


def _made(run: RunFacts) -> str:
    objectives = [o for o in _list(run.recipe.get("objectives")) if isinstance(o, dict)]
    terms = ", ".join(_code(str(o.get("name") or o.get("kind"))) for o in objectives)
    found = run.training.get("student")
    trained = f" for {say.count(found.steps)} steps ({found.epochs:g} epochs)" if found else ""
    rows = ", ".join(f"{name} {say.count(number)}" for name, number in run.data.rows.items())
    lines = [
        f"Distilled with attar {run.lineage.code.get('attar', '')} from {_text(run.teacher.name)} "
        f"({say.count(run.teacher.params)} parameters) into a {_text(run.student.family)} of "
        f"{say.count(run.student.params)} parameters, trained{trained} under {terms or 'its objectives'}.",
        f"Rows: {rows}. The test split was read once.",
    ]
    if found is not None and found.quantization is not None:
        lines.append(f"Quantization-aware: {say.quantization(found.quantization)}.")
    if run.control is not None:
        alone = "the text alone, without the teacher" if run.task == "causal_lm" else "the labels alone"
        lines.append(f"The control is the same student, trained on {alone}.")
    return say.plain(" ".join(lines))


def _quality(run: RunFacts) -> str:
    metric, q = run.quality.metric, run.quality
    lines: list[str] = []
    if q.student is None and run.evaluation.agreement is not None:
        lines.append(
            "The data has no labels: agreement with the teacher is the metric, and there is no control. "
            f"Agreement: {say.share(run.evaluation.agreement)}, {say.confidence(run.evaluation.agreement)}."
        )
    lines += ["", f"| model | {say.metric_name(metric)} | of the teacher | size | latency |", "|---|---|---|---|---|"]
    models = [("teacher", run.teacher), ("control", run.control), ("student", run.student)]
    for name, facts in models:
        if facts is not None:
            value, interval = getattr(q, name), q.intervals.get(name)
            of = run.retention if name == "student" else None
            lines.append(_row(name, metric, value, interval, of, facts.bytes, facts.latency))
    for a in run.artifacts:
        lines.append(_row(artifact_name(a), metric, a.quality, a.quality_interval, a.retention, a.bytes, a.latency))
    basis = q.intervals.get("student") or run.evaluation.agreement
    if basis is not None:
        lines += ["", f"In brackets: {say.confidence(basis)} ({_text(basis.method)})."]
    if run.kd_gain is not None:
        lines.append(f"Gain over the control: {say.difference_interval(metric, run.kd_gain)}.")
    if run.teacher.latency is not None:
        t = run.teacher.latency
        lines.append(
            f"Latency: median of {t.n}, {t.device}, {t.threads} thread{'s'[: t.threads - 1]}, one row at a time."
        )
    return say.plain("\n".join(lines).strip())


def _energy(run: RunFacts) -> str:
    found = run.energy
    if found is None:
        return "Not measured: the attar that made this run had no energy meter."
    lines = ["| what | processor time | energy |", "|---|---|---|"]
    amounts = [(f"{name}, 1,000 rows", one) for name, one in found.inference.items()]
    amounts += [(f"distilling, {name}", one) for name, one in found.distilling.items()]
    for name, one in amounts:
        kind = f", *{ESTIMATED}*" if one.estimated else ""
        lines.append(f"| {name} | {say.seconds(one.cpu_seconds)} | {amount(one)}{kind} |")
    if (line := energy_line(run)) is not None:
        lines += ["", f"{say.raised(line)}."]
    if (carbon := found.carbon) is not None:
        low, high = (say.grams(value) for value in carbon.distilling)
        lines += [
            "",
            f"Distilling as carbon: {low} to {high} of CO2 equivalent, by {carbon.intensity:g} g a kilowatt-hour "
            f"({_text(carbon.source)}, {carbon.year}) and a PUE of {carbon.pue:g}.",
        ]
    lines += ["", f"{_text(methods(found))}."]
    return say.plain("\n".join([*lines, *(f"- {_text(note)}" for note in found.notes)]))


def _row(
    name: str,
    metric: str,
    value: float | None,
    interval: Interval | None,
    of: Interval | None,
    size: int,
    latency: Measurement | None,
) -> str:
    quality = say.quality(metric, value) + (
        f" ({say.bounds(metric, interval)})" if interval and value is not None else ""
    )
    kept = say.share(of) if of else "-"
    speed = say.milliseconds(latency.value) if latency else say.NOT_MEASURED
    return f"| {name} | {quality} | {kept} | {say.size(size)} | {speed} |"


def _limits(run: RunFacts) -> str:
    lost = [c for c in run.evaluation.classes if c.teacher is not None and c.student < c.teacher]
    lost.sort(key=lambda c: c.student - (c.teacher or 0.0))
    lines = [
        "- It knows what its teacher and its data know, errors and biases included; it was measured on one test split.",
        "- Inputs unlike that data may get confident wrong answers.",
    ]
    if lost:
        named = ", ".join(
            f"{_code(c.name)} ({say.percent(c.teacher or 0.0)} to {say.percent(c.student)})" for c in lost[:5]
        )
        lines.append(f"- Recall fell most, teacher to student, on {named}.")
    lines += [f"- {_text(note)}" for note in run.evaluation.notes]
    return say.plain("\n".join(lines))


def _terms(run: RunFacts) -> str:
    p = run.policy
    lines = [
        f"- Teacher: {_text(p.teacher)}, licence {_text(p.licence or 'not stated')}"
        + (", by the strictest terms of these." if p.members else "."),
        f"- Decision: {p.decision} (verdict {p.verdict}, row {_code(p.rule)}). {_text(p.reason)}",
        f"- Source: {_text(p.source)}; read {_text(p.date)}.",
    ]
    if p.decided_by:
        lines.append(f"- Decided by: {_text(p.decided_by)}.")
    lines += [
        f"- One of the teachers: {_text(one.name)}, licence {_text(one.licence or 'not stated')} "
        f"(verdict {one.verdict}, row {_code(one.rule)})."
        for one in p.members
    ]
    if p.start:
        lines.append(
            f"- The student starts from {_text(p.start.name)}, licence {_text(p.start.licence or 'not stated')} "
            f"(verdict {p.start.verdict}, row {_code(p.start.rule)})."
        )
    lines.append(
        f"- Licence of this model: {_text(p.student_licence)}."
        if p.student_licence
        else "- No licence was recorded for this model; `policy.student_licence` sets one."
    )
    if p.student_name_prefix:
        lines.append(f"- Its name begins with “{_text(p.student_name_prefix)}” wherever it is distributed.")
    if not p.distribute:
        lines.append("- **It must not be distributed.**")
    lines += [f"- {_text(notice)}" for notice in p.notices]
    return "\n".join([*lines, "", f"_{_text(p.disclaimer)}_"])


def _lineage(run: RunFacts) -> str:
    found = run.lineage
    lines = [
        "| what | name | hash | licence |",
        "|---|---|---|---|",
        f"| recipe | {_text(run.name)} | {found.recipe_hash} | |",
    ]
    lines += [f"| {s.role} | {_text(s.name)} | {s.hash} | {_text(s.licence or '')} |" for s in found.sources]
    packages = ", ".join(f"{name} {version}" for name, version in found.packages.items())
    return "\n".join([*lines, "", f"{_text(packages)}. Made {found.created}."])


def _source(run: RunFacts) -> str:
    source = str(_section(run, "data").get("source") or "")
    return "its training data" if source in ("", "python") else source


def _test_split(run: RunFacts) -> str:
    splits = _section(run, "data").get("splits")
    return str((splits.get("test") if isinstance(splits, dict) else None) or "test")


def _revision(data: dict[str, JsonValue]) -> str | None:
    revision = data.get("revision")
    return revision if isinstance(revision, str) else None


def _section(run: RunFacts, name: str) -> dict[str, JsonValue]:
    found = run.recipe.get(name)
    return found if isinstance(found, dict) else {}


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _text(value: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return (
        _MARKUP.sub(r"\\\1", " ".join(value.split()))
        .replace("\\&", "&amp;")
        .replace("\\<", "&lt;")
        .replace("\\>", "&gt;")
    )


def _code(value: str) -> str:
    """Text as code; backticks cannot end it, and it stays on its line."""
    return f"`{' '.join(value.split()).replace('`', chr(0x2019))}`"
