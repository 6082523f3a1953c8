"""A run from top to bottom: check, policy, data, teacher, signals, student and control, export, certificate, report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from attar.certify import certify, choose, write_record
from attar.facts import RunFacts
from attar.governance.policy import decide_for, require_allowed
from attar.ground import Ground, Handed, Progress, prepare
from attar.plan import make_plan
from attar.recipe import Recipe
from attar.recipe.load import dump_recipe
from attar.report.card import model_card
from attar.report.html import write_report
from attar.seeds import Seed, limit_threads, run_seed
from attar.stages import Stages, locked
from attar.storage import atomic_folder, atomic_write
from attar.teachers.origin import quiet


def run(
    recipe: Recipe,
    out: Path,
    *,
    seeds: int = 1,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda _, __, ___: None,
    handed: Handed | None = None,
) -> RunFacts:
    """Carry a recipe to its end in the folder `out`, and return what is in run.json.

    Every stage that was done before, by the same things, is skipped. `seeds` > 1 trains that many students (the
    recipe's seed and the following) into one record. A missed budget is told in `budget` and `status`, not raised.
    """
    given = handed or Handed()
    plan = make_plan(recipe, python_objects=handed is not None, out=out)
    policy = decide_for(recipe, fetch=True)
    require_allowed(policy)
    with locked(out), quiet():
        before = limit_threads(recipe.training.threads)
        try:
            for warning in plan.warnings:
                say(f"WARNING: {warning}")
            atomic_write(out / "recipe.yaml", dump_recipe(recipe))
            stages = Stages(out / "store" / "stages", say)
            ground = prepare(recipe, out, stages, handed=given, licence=policy.licence, progress=progress)
            first = recipe.training.seed
            done = [
                run_seed(ground, seed, out if seeds == 1 else out / "seeds" / str(seed), stages, progress)
                for seed in range(first, first + seeds)
            ]
            chosen = _hand_over(choose(done, ground), ground)
            ground.warnings[:0] = plan.warnings
            facts = certify(ground, done, chosen, stages, policy)
            _write(facts, out)
        finally:
            limit_threads(before)
    return facts


def label_only(
    recipe: Recipe,
    out: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda _, __, ___: None,
) -> Path:
    """Fit the teacher if need be and write its signals for the recipe's data; returns the store's folder."""
    make_plan(recipe, out=out)
    policy = decide_for(recipe, fetch=True)
    require_allowed(policy)
    with locked(out), quiet():
        before = limit_threads(recipe.training.threads)
        try:
            stages = Stages(out / "store" / "stages", say)
            ground = prepare(recipe, out, stages, handed=Handed(), licence=policy.licence, progress=progress)
        finally:
            limit_threads(before)
    assert ground.store is not None
    return ground.store.path


def _hand_over(chosen: Seed, ground: Ground) -> Seed:
    """Put the chosen seed's folders where a single seed's stand; the seeds keep theirs."""
    if chosen.folder == ground.out:
        return chosen
    for name in [*chosen.training, "export"]:
        if (chosen.folder / name).is_dir():
            with atomic_folder(ground.out / name) as place:
                shutil.copytree(chosen.folder / name, place, dirs_exist_ok=True)
    moved = [a.model_copy(update={"path": f"export/{Path(a.path).name}"}) for a in chosen.artifacts]
    return Seed(chosen.seed, ground.out, chosen.training, chosen.validation, chosen.test, chosen.temperature, moved)


def _write(facts: RunFacts, out: Path) -> None:
    """run.json first: the report and the card are made from it."""
    write_record(facts, out)
    write_report(facts, out / "report.html")
    atomic_write(out / "student" / "README.md", model_card(facts))
