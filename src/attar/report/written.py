"""What language models wrote to the test prompts: right answers, length and members, beside what tokens say."""

from __future__ import annotations

from attar.facts import RunFacts
from attar.report import numbers as say
from attar.report.markup import Child, Column, Html, table, tag
from attar.report.overview import NONE, value_of

_NAMES = {"teacher": "Teacher", "student": "Student", "control": "Control", "control_random": "Control, random start"}


def written(run: RunFacts) -> Html | None:
    """A table of what each model wrote, where answers count."""
    found = run.evaluation.written
    if not found:
        return None
    metric, longest = run.quality.metric, max(one.longest for one in found.values())
    structured = any(one.valid_json is not None for one in found.values())
    members = sorted({name for one in found.values() for name in one.f1})
    names = ["Model", say.metric_name(metric).capitalize(), "Tokens an answer", "Not ended", "Perplexity"]
    names += [*(["Valid JSON"] if structured else []), *(f"F1 of {name}" for name in members)]
    rows: list[list[Child]] = []
    for model, one in found.items():
        row: list[Child] = [
            _NAMES.get(model, model),
            value_of(metric, getattr(run.quality, model)),
            say.decimals(one.mean_tokens, 1),
            say.percent(one.cut),
            value_of("perplexity", run.evaluation.perplexity.get(model)),
        ]
        if structured:
            row.append(NONE if one.valid_json is None else say.percent(one.valid_json))
        rows.append([*row, *(say.percent(one.f1[name]) if name in one.f1 else NONE for name in members)])
    about = (
        f"Each model answered the {say.count(run.quality.n)} test prompts, its likeliest token each time. An answer "
        f"that had not ended after {say.count(longest)} tokens was cut there, and is wrong. Tokens are counted as each "
        "model\u2019s own tokenizer cuts them."
    )
    columns = [Column(name, numeric=at > 0) for at, name in enumerate(names)]
    inner = table("Answers by model", columns, rows, hide=True)
    return tag("section", tag("h2", "What was written"), tag("p", about), inner, id="written")
