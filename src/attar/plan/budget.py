"""Lines of the budget that sizes can decide before any work; the others are decided at the end."""

from __future__ import annotations

from attar.facts import BudgetFacts
from attar.plan.notes import Notes
from attar.plan.result import ModelPlan, Size
from attar.recipe import Recipe

BYTES = {"fp32": 4.0, "fp16": 2.0, "f16": 2.0, "int8": 1.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "int4": 20 / 32}
"""Bytes a parameter, by precision; 32 numbers share two bytes in GGUF's blocks, and four in ONNX's."""


def check_budget(recipe: Recipe, teacher: ModelPlan, student: ModelPlan, notes: Notes) -> tuple[BudgetFacts, ...]:
    """Each line of the budget with what is known; one that cannot be met is a problem."""
    budget = recipe.budget
    lines: list[BudgetFacts] = []
    if budget.max_params is not None:
        lines += _line("max_params", budget.max_params, "parameters", student.params, teacher.params.likely, notes)
    if budget.max_bytes is not None:
        if not recipe.export:
            notes.warn(("budget", "max_bytes"), "nothing is exported; the fp32 weights of student/ count.")
        per = min((BYTES[spec.precision] for spec in recipe.export), default=BYTES["fp32"])
        known = student.params
        least = Size(
            low=None if known.low is None else int(per * known.low),
            likely=None if known.likely is None else int(per * known.likely),
            note=known.note,
        )
        lines += _line("max_bytes", budget.max_bytes, "bytes", least, teacher.bytes, notes)
    if budget.max_latency_ms is not None:
        if not recipe.export:
            notes.problem(
                ("budget", "max_latency_ms"), "nothing is exported whose latency could be measured. Add to export."
            )
        if not recipe.report.latency:
            notes.warn(
                ("budget", "max_latency_ms"), "it will not be decided: report.latency is off, so nothing is measured."
            )
        lines.append(
            BudgetFacts(
                name="max_latency_ms", limit=budget.max_latency_ms, value=None, unit="ms", met=None, note="measured"
            )
        )
    if budget.min_retention is not None:
        lines.append(
            BudgetFacts(
                name="min_retention",
                limit=budget.min_retention,
                value=None,
                unit="of the teacher",
                met=None,
                note="measured",
            )
        )
    return tuple(lines)


def _line(
    name: str, limit: int | str, unit: str, size: Size, of_teacher: int | None, notes: Notes
) -> list[BudgetFacts]:
    share = limit if isinstance(limit, str) else ""
    if isinstance(limit, str):
        if of_teacher is None:
            notes.foretell(
                ("budget", name), f"{share} of the teacher is decided at the end: its size is not known yet."
            )
            return []
        most = float(limit.rstrip(" %")) / 100 * of_teacher
    else:
        most = float(limit)
    told = f"{share} of the teacher's {of_teacher:,}" if share else ""
    if size.low is not None and size.low > most:
        notes.problem(
            ("budget", name),
            f"the budget cannot be met: at most {most:,.0f} {unit}{f' ({told})' if told else ''}, but the student "
            f"has at least {size.low:,}. Make the student smaller, or raise the limit.",
        )
    elif size.likely is not None and size.likely > most:
        known = f" ({size.note})" if size.note else ""
        has = f"is expected to have {size.likely:,} {unit}{known}"
        notes.foretell(("budget", name), f"the student {has}; {most:,.0f} are allowed.")
    met = None
    if size.low is not None and size.low > most:
        met = False
    elif size.high is not None and size.high <= most:
        met = True
    value = None if size.likely is None else float(size.likely)
    return [BudgetFacts(name=name, limit=most, value=value, unit=unit, met=met, note=told or None)]
