"""`attar bench`: measure a finished run's teacher, control, student and files side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from attar.errors import RecipeError


def bench(
    run_folder: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)],
    threads: Annotated[int, typer.Option(min=1, max=1024, help="CPU threads of each model.")] = 1,
    batch: Annotated[
        str | None,
        typer.Option(help="Rows asked together; default: 1,32, of language models 1.", show_default=False),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Interleaved repeats.")] = 10,
    seconds: Annotated[float, typer.Option(min=0.001, max=60, help="Length of one repeat of one model.")] = 0.2,
    json: Annotated[Path | None, typer.Option("--json", help="Where the record goes; default: RUN/bench.json.")] = None,
) -> None:
    """Measure teacher, control, student and every file in one go.

    Interleaved: latency, throughput, peak memory, load time, energy; the teacher through onnxruntime too. Writes
    RUN/bench.json and RUN/bench.html.
    """
    from attar.benching import bench as measured
    from attar.handover import BENCH, BENCH_PAGE
    from attar.report.bench import lines, render
    from attar.report.load import load_run
    from attar.stages import locked
    from attar.storage import atomic_write
    from attar.terminal import Terminal

    sizes = None if batch is None else _sizes(batch)
    load_run(run_folder)  # what is no run's folder is left alone
    with Terminal() as terminal, locked(run_folder):
        facts = measured(
            run_folder, threads=threads, batches=sizes, repeats=repeats, seconds=seconds, say=terminal.say
        )  # fmt: skip
        place, page = json or run_folder / BENCH, run_folder / BENCH_PAGE
        atomic_write(place, facts.model_dump_json(indent=1))
        atomic_write(page, render(facts))
    sys.stdout.write("\n".join([*lines(facts), f"record: {place}", f"chart: {page}"]) + "\n")


def _sizes(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1 or len(set(found)) != len(found):
        raise RecipeError(f'--batch: "{text}" is no list of batch sizes. Write numbers from 1, each once: 1,32.')
    return found
