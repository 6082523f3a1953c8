"""`attar bench`: every model and file of a finished run, asked the same row side by side, the teacher through
onnxruntime too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from attar.account import distilled, levels
from attar.bench.energy import Amount, break_even, joules_of
from attar.bench.interleave import ratio
from attar.bench.matrix import Measured, Taken, measure
from attar.bench_sides import REFERENCE, TEACHER, Run, Side, add_files, add_students, add_teachers, open_run
from attar.facts import BatchFacts, BenchedFacts, BenchFacts, BreakEvenFacts, Interval
from attar.governance.lineage import machine, package_versions, source_hash
from attar.hashing import sha256
from attar.report.load import NAME as RECORD
from attar.tasks.causal_lm import CausalLM
from attar.teachers.origin import quiet
from attar.version import __version__

_THOUSAND = 1000


def bench(
    folder: Path,
    *,
    threads: int = 1,
    batches: Sequence[int] | None = None,
    repeats: int = 10,
    seconds: float = 0.2,
    say: Callable[[str], None] = lambda _: None,
) -> BenchFacts:
    """Measure a run's teacher, control, student and files. `batches`: None, 1 and 32, of language models 1 alone.

    `seconds`: how long a repeat takes, about. Raises AttarError that names a file which is not the one that `run.json`
    speaks of, and DataError where the run's rows are not on this machine.
    """
    run = open_run(folder)
    sizes = batches or ([1] if isinstance(run.task, CausalLM) else [1, 32])
    with quiet():
        add_teachers(run, say)
        add_students(run)
        add_files(run)
    subjects = {side.facts.name: side.subject for side in run.sides if side.subject is not None}
    found = measure(subjects, sizes, threads=threads, repeats=repeats, seconds=seconds, say=say)
    return _record(run, found, threads, repeats)


def _record(run: Run, found: dict[str, Measured], threads: int, repeats: int) -> BenchFacts:
    """Everything in one record, compared with the teacher through onnxruntime, or else as it is."""
    reference = next((name for name in (REFERENCE, TEACHER) if name in found and found[name].batches), None)
    whole, why = distilled(run.facts)
    notes = [] if why is None else [f"break-even: {why}"]
    if isinstance(run.task, CausalLM):
        notes.append("writing token by token (decode): not measured; one forward pass of a whole text is timed")
    models = [_benched(run, side, found, reference, whole) for side in run.sides]
    return BenchFacts(
        run=run.facts.name,
        record=sha256(run.folder / RECORD),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        code={"attar": __version__, "source": source_hash()},
        packages=package_versions(),
        machine=machine(),
        threads=threads,
        repeats=repeats,
        row="a validation row of median length, unpadded, the tokenizer apart; a batch is this row, so many times over",
        metric=run.facts.quality.metric,
        reference=reference,
        models=models,
        notes=notes,
    )


def _benched(
    run: Run, side: Side, found: Mapping[str, Measured], reference: str | None, whole: Amount | None
) -> BenchedFacts:
    facts, own = side.facts, found.get(side.facts.name)
    if own is None:
        return facts
    watts = run.recipe.report.energy.watts_per_core
    other = {} if reference is None or facts.name == reference else found[reference].batches
    return facts.model_copy(
        update={
            "runtime": own.runtime,
            "load_seconds": own.load_seconds,
            "batches": [
                _batch(size, taken, other.get(size), side.tokens, watts) for size, taken in own.batches.items()
            ],
            "break_even": None if whole is None else _paid(side, found, reference, whole, watts),
            "notes": [*facts.notes, *map(run.told, own.reasons)],
        }
    )


def _paid(
    side: Side, found: Mapping[str, Measured], reference: str | None, whole: Amount, watts: tuple[float, float]
) -> BreakEvenFacts | None:
    """A file stands in for the reference; the student for the teacher as it is, through the same runtime."""
    role, name = side.facts.role, side.facts.name
    spared = {"file": reference, "student": TEACHER}.get(role)
    sides = [found[one].batches.get(1) for one in (spared, name) if one is not None and one in found]
    if spared is None or len(sides) < 2 or None in sides:
        return None
    theirs, ours = ([Amount.of(one) for one in taken.spent] for taken in sides if taken is not None)
    return break_even(whole, theirs, ours, watts=watts, instead_of=spared, by=name)


def _batch(size: int, own: Taken, other: Taken | None, tokens: int | None, watts: tuple[float, float]) -> BatchFacts:
    a_second = size / (own.latency.value / 1000)
    share: Interval | None = None
    if other is not None:
        ours, theirs = (levels([Amount.of(one) for one in taken.spent]) for taken in (own, other))
        share = ratio(ours, theirs)
    return BatchFacts(
        batch=size,
        latency=own.latency,
        rows_per_second=a_second,
        tokens_per_second=None if tokens is None else a_second * tokens,
        faster=None if other is None else ratio(other.repeats, own.repeats),
        peak_bytes=own.peak_bytes,
        energy=joules_of(own.spent, watts, _THOUSAND),
        energy_share=share,
    )
