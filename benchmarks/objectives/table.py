"""The tables of the README, and what did not help, from results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rows import CONTROL, REFERENCE

START, END = "<!-- leaderboard -->\n", "<!-- /leaderboard -->"

Facts = Mapping[str, Any]


def publish(page: str, result: Facts) -> str:
    """The page with figure and tables between its markers. Raises ValueError where it has none."""
    return splice(page, f"\n![Gain over {CONTROL}, by objective and case](objectives/figure.svg)\n{tables(result)}")


def splice(page: str, block: str) -> str:
    """The page with `block` between its markers. Raises ValueError where it has none."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"the page lacks {START.strip()} or {END}")
    return before + start + block + end + after


def tables(result: Facts) -> str:
    """All cases, one after another."""
    return "".join(_case(case) for case in result["cases"].values())


def verdicts(rows: Mapping[str, Facts]) -> dict[str, list[str]]:
    """Names of the rows by what the interval of their difference to the control says: better, unclear, worse."""
    found: dict[str, list[str]] = {"better": [], "unclear": [], "worse": []}
    for name, row in rows.items():
        if (over := row.get("over_control")) is not None:
            found["better" if over["lo"] > 0 else "worse" if over["hi"] < 0 else "unclear"].append(name)
    return found


def _case(case: Facts) -> str:
    body = _classification(case) if case["metric"] == "accuracy" else _language(case)
    return f"\n### {case['title']}\n\n{_told(case)}\n\n{body}\n{_what_did_not_help(case)}\n"


def _classification(case: Facts) -> str:
    lines = [
        f"| trained on | test accuracy, % | over {CONTROL}, points | over {REFERENCE}, points "
        "| answers as the teacher, % | rate | weight |",
        "|---|---|---|---|---|---|---|",
        f"| (the teacher) | {_interval(case['teacher']['test'], 100)} | | | | | |",
    ]
    for name, row in _best_first(case, "test", 1):
        weight = row["chosen"]["weight"]
        cells = [
            name, _interval(row["test"], 100), _difference(row.get("over_control"), 100),
            _difference(row.get("over_reference"), 100), f"{100 * row['agreement']['value']:.1f}",
            f"{row['chosen']['learning_rate']:.2g}", "" if weight is None else f"{weight:g}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _language(case: Facts) -> str:
    lines = [
        f"| trained on | perplexity | KL to the teacher, nats a token | gain over {CONTROL}, nats a token "
        f"| KL less than {REFERENCE}'s |",
        "|---|---|---|---|---|",
        f"| (the teacher) | {_interval(case['teacher']['perplexity'], 1)} | | | |",
    ]
    for name, row in _best_first(case, "kl", -1):
        cells = [
            name, _interval(row["perplexity"], 1), _interval(row["kl"], 1, 3),
            _difference(row.get("over_control"), 1, 3), _difference(row.get("over_reference"), 1, 3),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _told(case: Facts) -> str:
    """What exactly was run, in a few lines."""
    data, search = case["rows_of_data"], case.get("search")
    parts = ", ".join(f"{count:,} {name}" for name, count in data.items())
    if search is None:
        tuned = f"fixed learning rate {case['learning_rate']:g}"
    else:
        rates = ", ".join(f"{rate:g}" for rate in search["learning_rates"])
        tuned = (
            f"{search['settings_a_row']} settings a row on validation (rates {rates}; seed "
            f"{', '.join(map(str, search['seeds']))})"
        )
    told = case["conditions"]
    return (
        f"{parts}. Teacher {_millions(case['teacher']['params'])}, student {_millions(case['student']['params'])} "
        f"parameters; {case['steps']} steps, {case['cpu_seconds_a_training']:.1f} s of one core a training; {tuned}; "
        f"{len(case['seeds'])} seeds, 95 % intervals. {told['machine']['processor']}, {told['threads']} thread, "
        f"torch {told['packages']['torch']}, transformers {told['packages']['transformers']}."
    )


def _what_did_not_help(case: Facts) -> str:
    found = verdicts(dict(_best_first(case, *(("test", 1) if case["metric"] == "accuracy" else ("kl", -1)))))
    lines = [
        f"\nClearly better than {CONTROL}: {_listed(found['better'])}. Not to be told from it: "
        f"{_listed(found['unclear'])}. Clearly worse: {_listed(found['worse'])}."
    ]
    lines += [f"- {name}: left out. {why}" for name, why in case.get("left_out", {}).items()]
    lines += [f"- {name}: failed. {why}" for name, why in case.get("failed", {}).items()]
    lines += [f"- {name}: {row['note']}." for name, row in case["rows"].items() if row.get("note")]
    return "\n".join([lines[0], "", *lines[1:]]) if len(lines) > 1 else lines[0]


def _best_first(case: Facts, key: str, sign: int) -> list[tuple[str, Facts]]:
    return sorted(case["rows"].items(), key=lambda item: -sign * item[1][key]["value"])


def _interval(found: Facts, scale: float, digits: int = 1) -> str:
    lo, hi = (f"{scale * found[end]:.{digits}f}" for end in ("lo", "hi"))
    return f"{scale * found['value']:.{digits}f} ({lo} to {hi})"


def _difference(found: Facts | None, scale: float, digits: int = 1) -> str:
    """With its sign; bold where the interval is on one side of 0."""
    if found is None:
        return ""
    lo, hi = (f"{scale * found[end]:+.{digits}f}" for end in ("lo", "hi"))
    text = f"{scale * found['value']:+.{digits}f} ({lo} to {hi})"
    return f"**{text}**" if found["lo"] > 0 or found["hi"] < 0 else text


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _millions(params: int) -> str:
    return f"{params / 1e6:.2f} M" if params >= 100_000 else f"{params:,}"
