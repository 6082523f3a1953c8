"""The leaderboard of objectives: same student, start, data and steps for every row, and the same number of settings.

    python benchmarks/objectives/run.py --quick                      # the whole path in a minute; figures mean nothing
    ATTAR_MIRROR=../shared/data python benchmarks/objectives/run.py  # all cases, results.json, table and figure
    python benchmarks/objectives/run.py --table                      # table and figure anew from results.json

Each row of `rows.py` tries its settings (learning rate and weight) on validation with a seed of its own; the best one
is trained from five other seeds, and these alone answer the test, once. Every training runs on one thread, and is kept
in --place: a rerun goes on where it was stopped, and trains new or changed rows only. To use two cores, start two
processes with `--part 1/2` and `--part 2/2`; then run without --part, which finds all trainings done.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import smollm2
import torch
from cases import CASES, Case
from figure import figure
from leaderboard import RESAMPLES, case_figures, train_row
from rows import rows_of
from table import publish, tables
from trainings import Trainings

from attar.errors import AttarError
from attar.governance.lineage import machine, package_versions, source_hash
from attar.version import __version__

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
QUICK_CASES = ("digits", smollm2.NAME)
"""What is there in every clone."""

Say = Callable[[str], None]


def run_case(case: Case, part: tuple[int, int], place: Path, say: Say, resamples: int) -> dict[str, Any] | None:
    """Train this process's share of the rows; the figures, if that share is all of them."""
    rows = rows_of(case.name)
    trainings = Trainings(case, rows, place, say)
    number, parts = part
    trained = {row.name: train_row(trainings, row, say) for row in rows[number::parts]}
    return case_figures(trainings, trained, resamples=resamples) if parts == 1 else None


def conditions() -> dict[str, Any]:
    """What the figures of this process rest on."""
    return {
        "machine": machine(),
        "packages": package_versions(),
        "attar": {"version": __version__, "source": source_hash()},
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "dtype": "float32",
    }


def merge(file: Path, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Put the cases into the file, each with its conditions; those of other runs stay."""
    old = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"cases": {}}
    told = conditions()
    cases = {**old["cases"], **{name: {**figures, "conditions": told} for name, figures in found.items()}}
    order = [*CASES, smollm2.NAME]
    result = {"cases": {name: cases[name] for name in order if name in cases}}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def show(result: dict[str, Any], out: Path) -> None:
    """Write the figure beside `out`, and both into the README where `out` is the published file."""
    out.with_name("figure.svg").write_text(figure(result), encoding="utf-8")
    if out == HERE / "results.json":
        README.write_text(publish(README.read_text(encoding="utf-8"), result), encoding="utf-8")


def main() -> None:
    """Train, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*CASES, smollm2.NAME]
    parser.add_argument("--cases", nargs="*", choices=names, help="absent: all (--quick: those without data)")
    parser.add_argument("--quick", action="store_true", help="a few steps a training, into runs/objectives-quick")
    parser.add_argument("--part", default="1/1", help="I/N: train every N-th row only, from the I-th on")
    parser.add_argument("--table", action="store_true", help="only write table and figure, from --out")
    parser.add_argument("--place", type=Path, help="where trainings are kept; absent: runs/objectives")
    parser.add_argument("--out", type=Path, help="the JSON file; absent: results.json here (--quick: in --place)")
    options = parser.parse_args()
    place = options.place or Path("runs") / ("objectives-quick" if options.quick else "objectives")
    out = (options.out or (place / "results.json" if options.quick else HERE / "results.json")).resolve()
    if options.table:
        show(json.loads(out.read_text(encoding="utf-8")), out)
        return
    torch.set_num_threads(1)
    number, parts = (int(text) for text in options.part.split("/"))
    part, say = (number - 1, parts), partial(print, flush=True)
    chosen = options.cases or (QUICK_CASES if options.quick else names)
    found: dict[str, dict[str, Any]] = {}
    for name in chosen:
        try:
            if name == smollm2.NAME:
                figures = smollm2.run_case(part, place, say, quick=options.quick)
            else:
                case = CASES[name].quick() if options.quick else CASES[name]
                figures = run_case(case, part, place, say, 200 if options.quick else RESAMPLES)
        except AttarError as error:
            print(f"{name}: not measured: {error}", file=sys.stderr)
            continue
        if figures is not None:
            found[name] = figures
    if found:
        result = merge(out, found)
        show(result, out)
        print(tables(result))


if __name__ == "__main__":
    main()
