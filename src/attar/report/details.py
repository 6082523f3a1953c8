"""The report for engineers: training, calibration, seeds, parity of the exports."""

from __future__ import annotations

from attar.facts import LayerMapFacts, ParityFacts, RunFacts, TrainingFacts
from attar.report import numbers as say
from attar.report.figures import Line, Role, figure, key, lines, reliability
from attar.report.headline import artifact_name
from attar.report.markup import Child, Column, Html, definition_list, table, tag
from attar.report.overview import NONE, value_of

_PANELS = 6
_NO_CURVE = {"step", "epoch", "learning_rate", "grad_norm", "seconds", "rows_per_second"}
_ROLES: dict[str, tuple[Role, str]] = {
    "student": ("student", "student"),
    "control": ("control", "control"),
    "control_random": ("other", "control, random start"),
}


def training(run: RunFacts) -> Html | None:
    """How student and controls learned."""
    if not run.training:
        return None
    names = list(dict.fromkeys(k for t in run.training.values() for p in t.curve for k in p if k not in _NO_CURVE))
    names.sort(key=lambda name: (not name.startswith("validation"), name != "loss"))
    panels: list[Html] = []
    four = len(names) == 4  # beside each other, and so narrower
    for name in names[:_PANELS]:
        title = _curve_title(name, run.quality.metric)
        written = _written(name, run.quality.metric)
        sign = -1 if name.startswith("validation") and say.lower_is_better(run.quality.metric) else 1
        drawn = [(*_ROLES[m], _points(t, name, sign)) for m, t in run.training.items() if m in _ROLES]
        series = [Line(label, role, points) for role, label, points in drawn]
        panels.append(
            figure(title, lines(title, [s for s in series if s.points], written, "step", 252 if four else 340))
        )
    facts: list[tuple[str, Child]] = []
    for model, found in run.training.items():
        speed = f"{say.count(found.rows_per_second)} {found.counted} a second"
        kept = f"weights of step {say.count(found.best_step)}"
        amount = (
            f"{say.count(found.steps)} steps, {found.epochs:g} epochs, {say.seconds(found.seconds)}, {speed}, {kept}"
        )
        facts.append((_ROLES.get(model, ("other", model))[1].capitalize(), amount))
    student = run.training.get("student")
    if student is not None and student.initial:
        start = "; ".join(f"{k.replace('_', ' ')}: {v}" for k, v in student.initial.items())
        facts.append(("Start of the student", start))
    facts += [(f"Layers in {name}", _layers(found)) for name, found in (student.layers.items() if student else ())]
    if student is not None and student.balance:
        parts = [f"{n}: norm {one.norm:.3g}, weight \u00d7 {one.factor:.3g}" for n, one in student.balance.items()]
        facts.append(("Gradients balanced", "; ".join(parts)))
    if student is not None and student.quantization is not None:
        facts.append(("Quantization-aware", say.quantization(student.quantization)))
    if student is not None and student.rollouts is not None:
        told = student.rollouts
        amount = (
            f"{say.count(told.texts)} texts of {told.length:.1f} tokens on average, {say.percent(told.at_limit)} cut"
        )
        facts.append(("Written while training", f"{amount}; {say.percent(told.share_of_time, 0)} of the time"))
    shown = [_ROLES[m] for m in run.training if m in _ROLES]
    return tag(
        "section",
        tag("h2", "Training"),
        tag("div", panels, class_="quartet" if four else "trio") if panels else None,
        key(shown) if panels else None,
        definition_list(facts),
        tag(
            "p",
            "Student and control minimise different sums, so their losses do not compare; the metric does.",
            class_="note",
        )
        if len(shown) > 1
        else None,
        id="training",
    )


def calibration(run: RunFacts) -> Html | None:
    """Whether confidence can be believed, before and after the fitted temperature."""
    found = run.evaluation.calibration
    if found is None:
        return None
    order: list[tuple[str, Role, str]] = [
        ("teacher", "teacher", "Teacher"),
        ("control", "control", "Control"),
        ("student", "student", "Student as trained"),
        ("student_calibrated", "student", "Student, calibrated"),
    ]
    panels = [
        figure(
            label, reliability(f"Reliability, {label}", role, found.bins[name]), f"ECE {say.percent(found.ece[name])}"
        )
        for name, role, label in order
        if name in found.bins and name in found.ece
    ]
    before, after = found.ece.get("student"), found.ece.get("student_calibrated")
    change = ""
    if before is not None and after is not None:
        change = f" It moves the student\u2019s error from {say.percent(before)} to {say.percent(after)}."
    return tag(
        "section",
        tag("h2", "Calibration"),
        tag(
            "p",
            "How far confidence is from accuracy: the expected calibration error (ECE) over 15 bins of equal mass, on "
            f"test. The temperature {say.decimals(found.temperature, 2)} was fitted on validation and travels with the "
            f"exports.{change}",
        ),
        tag("div", panels, class_="quartet"),
        id="calibration",
    )


def seeds(run: RunFacts) -> Html | None:
    """Every seed of several."""
    if len(run.seeds) < 2:
        return None
    metric = run.quality.metric
    files = list(dict.fromkeys(name for s in run.seeds for name in s.artifacts))
    names = [
        "Seed",
        say.metric_name(metric).capitalize(),
        "Control",
        "Of the teacher",
        "Agreement",
        "Validation",
        *files,
    ]
    rows: list[list[Child]] = [
        [
            str(s.seed),
            value_of(metric, s.student),
            value_of(metric, s.control),
            say.percent(s.retention) if s.retention is not None else NONE,
            say.percent(s.agreement) if s.agreement is not None else NONE,
            value_of(metric, s.validation),
            *(value_of(metric, s.artifacts.get(name)) for name in files),
        ]
        for s in run.seeds
    ]
    note = "Sizes, latency and exported files in the other sections are those of the seed that was handed over."
    inner = table("Results by training seed", [Column(n) for n in names], rows, hide=True)
    return tag("section", tag("h2", f"{len(run.seeds)} seeds"), inner, tag("p", note, class_="note"), id="seeds")


def parity(run: RunFacts) -> Html | None:
    """How each exported file answers against the checkpoint."""
    if not run.artifacts:
        return None
    names = ["File", "Answers equal", "Largest logit difference", "Mean divergence, nats", "Rows"]
    columns = [Column(n, numeric=i > 0) for i, n in enumerate(names)] + [Column("Path", numeric=False)]
    rows: list[list[Child]] = []
    for a in run.artifacts:
        p = a.parity
        rows.append(
            [
                [artifact_name(a), tag("span", a.runtime, class_="note")],
                [
                    say.percent(p.agreement, 2),
                    _bound("\u2265", p.bound_agreement, lambda v: say.percent(v)),
                    *_step_by_step(p),
                ],
                [
                    f"{p.max_abs:.2g}",
                    _bound("\u2264", p.bound_max_abs, lambda v: f"{v:g}"),
                    None if p.cached is None else _note(f"through the cache {p.cached.max_abs:.2g}"),
                ],
                [
                    f"{p.kl:.2g}" if p.kl is not None else NONE,
                    None if p.cached is None else _note(f"through the cache {p.cached.kl:.2g}"),
                ],
                say.count(p.n),
                [tag("code", a.path), tag("span", f"sha256 {a.sha256[:16]}", class_="note")],
            ]
        )
    return tag(
        "section",
        tag("h2", "Exported files"),
        tag(
            "p",
            "Each file was loaded into its own runtime and asked the same rows as the checkpoint that it came from.",
        ),
        table("Parity of exported files with the checkpoint", columns, rows, hide=True),
        id="exports",
    )


def _layers(found: LayerMapFacts) -> str:
    """Which layers an objective compares, and how they were matched."""
    likeness = [f" ({value:.2f})" for value in found.similarities] or [""] * len(found.pairs)
    pairs = ", ".join(f"{ours} with {theirs}{like}" for (ours, theirs), like in zip(found.pairs, likeness, strict=True))
    how = {
        "given": "as the recipe gives them",
        "last": "the last of both",
        "uniform": "evenly spaced",
        "cka": f"chosen, before training, by linear CKA (in brackets) on {say.count(found.rows or 0)} training rows",
    }[found.how]
    return f"student {pairs} of the teacher; {how}"


def _step_by_step(found: ParityFacts) -> list[Child]:
    """How often a language model's file chooses the checkpoint's token through its cache, and when both write on."""
    lines: list[Child] = []
    if found.cached is not None:
        lines.append(_note(f"through the cache {say.percent(found.cached.agreement, 2)}"))
    if (told := found.written) is not None:
        first = "" if told.first_difference is None else f", first other one after {say.count(told.first_difference)}"
        lines.append(_note(f"written {say.percent(told.same, 1)} of {say.count(told.tokens)} tokens{first}"))
    return lines


def _note(text: str) -> Html:
    return tag("span", text, class_="note")


def _bound(sign: str, bound: float | None, written: say.Written) -> Html | None:
    return None if bound is None else tag("span", f"bound {sign} {written(bound)}", class_="note")


def _points(found: TrainingFacts, name: str, sign: int) -> list[tuple[float, float]]:
    """`sign`: -1 where training saw the negative of a metric, since higher is better there."""
    return [(p.get("step", float(i)), sign * p[name]) for i, p in enumerate(found.curve) if name in p]


def _curve_title(name: str, metric: str) -> str:
    if name.startswith("validation"):
        return f"{say.metric_name(metric).capitalize()} on validation"
    if name == "loss":
        return "Loss"
    what, _, term = name.partition("_")
    return f"Term {term}" if what == "term" else f"{what.capitalize()} of {term}"


def _written(name: str, metric: str) -> say.Written:
    if name.startswith("validation"):
        return lambda value: say.quality(metric, value)
    return lambda value: f"{value:.3g}"
