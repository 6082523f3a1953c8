"""Make what is made by itself in docs/: the figures, and what objectives.md says of the leaderboard.

    python docs/generate.py

The figures come from attar's own functions (a few seconds), the sentences from benchmarks/objectives/results.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from drawings import draw_fits, draw_pulls
from measured import NOT_YET, section
from toys import FITTED, PULLED, fit, pull, two_modes

HERE = Path(__file__).parent
PAGE, FIGURES = HERE / "objectives.md", HERE / "figures"
RESULTS = HERE.parent / "benchmarks" / "objectives" / "results.json"
START, END = "<!-- measured: python docs/generate.py -->\n", "<!-- /measured -->"


def figures() -> dict[str, str]:
    """SVG by file name."""
    return {
        "one_bump_for_two.svg": draw_fits(two_modes().numpy(), {name: fit(one) for name, one in FITTED.items()}),
        "pull_on_a_row.svg": draw_pulls({name: pull(one) for name, one in PULLED.items()}),
    }


def page(text: str, results: Path = RESULTS) -> str:
    """objectives.md with what was measured between its markers. Raises ValueError where it has none."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{PAGE.name} lacks {START.strip()} or {END}")
    found = section(json.loads(results.read_text(encoding="utf-8"))) if results.is_file() else NOT_YET
    return f"{before}{start}\n{found}\n{end}{after}"


def main() -> None:
    """Write everything."""
    FIGURES.mkdir(exist_ok=True)
    for name, drawing in figures().items():
        (FIGURES / name).write_text(drawing, encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
