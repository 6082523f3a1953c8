"""A run from top to bottom: check, policy, data, teacher, signals, student and control, export, certificate, report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from attar.answer_judge import AnswerJudge
from attar.certify import certify
from attar.devices import device_of
from attar.facts import PolicyFacts, RunFacts
from attar.governance.policy import decide_for, require_allowed
from attar.ground import Ground, Handed, Progress, Say
from attar.handover import require_exports, sweep, withdraw, write
from attar.judges import Judge, LabelJudge, LanguageJudge
from attar.plan import make_plan
from attar.plan.objectives import signals_mode
from attar.precision import computed_in
from attar.preparing import prepare
from attar.ranks import Ranks, joined
from attar.recipe import Recipe
from attar.recipe.teacher import AskedSpec
from attar.seeds import Seed, limit_threads, run_seed
from attar.shortage import advice_for
from attar.stages import Stages, locked
from attar.storage import atomic_folder
from attar.tasks.causal_lm import CausalLM
from attar.teachers.origin import quiet

_PATIENCE = 1800.0
"""As in TrainingArguments."""


def run(
    recipe: Recipe,
    out: Path,
    *,
    seeds: int = 1,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda _, __, ___: None,
    handed: Handed | None = None,
    complain: bool = True,
) -> RunFacts:
    """Carry a recipe to its end in the folder `out`, and return what is in run.json.

    Of several processes that torchrun started all train, and the first does all else; `out` must be on a disk that all
    of them see.

    Every stage that was done before, by the same things, is skipped. `seeds` > 1 trains that many students (the
    recipe's seed and the following) into one record. A missed budget is told in `budget` and `status`, not raised; an
    export that was refused raises ParityError or ExportError after all else is written (`complain` off: it stands in
    `refused` alone).
    """
    given = handed or Handed()
    with joined(_patience(recipe)) as ranks:
        say, progress = _heard(ranks, say, progress)
        plan = ranks.by_first(lambda: make_plan(recipe, python_objects=handed is not None, out=out))
        policy = ranks.by_first(lambda: decide_for(recipe, fetch=True))
        require_allowed(policy)
        with locked(out, ranks), quiet():
            before = limit_threads(recipe.training.threads)
            try:
                lasting = [one for one in plan.warnings if one not in plan.foretold]
                slower = _arithmetic(recipe)
                for warning in [*plan.warnings, *slower]:
                    say(f"WARNING: {warning}")
                stages = _stages(recipe, out, say, ranks)
                ground = prepare(recipe, out, stages, handed=given, policy=policy, progress=progress)
                ground.warnings[:0] = [*lasting, *slower]
                judge, first = _judge_of(ground), recipe.training.seed
                done = [
                    run_seed(ground, judge, seed, out if seeds == 1 else out / "seeds" / str(seed), stages, progress)
                    for seed in range(first, first + seeds)
                ]
                facts = ranks.by_first(lambda: _finish(ground, judge, done, stages, policy))
            finally:
                limit_threads(before)
    if complain:
        require_exports(facts, out)
    return facts


def label_only(
    recipe: Recipe,
    out: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda _, __, ___: None,
) -> Path:
    """Fit the teacher if need be and write its signals for all of the recipe's data; returns the store's folder.

    The folder is whole: it may be copied to another machine, by itself.
    """
    if isinstance(recipe.teacher, AskedSpec) and signals_mode(recipe) == "live":
        stored = {"teacher": recipe.teacher.model_copy(update={"signals": "store"})}
        recipe = recipe.model_copy(update=stored)
    with joined(_patience(recipe)) as ranks:
        say, progress = _heard(ranks, say, progress)
        ranks.by_first(lambda: make_plan(recipe, out=out))
        policy = ranks.by_first(lambda: decide_for(recipe, fetch=True))
        require_allowed(policy)
        with locked(out, ranks), quiet():
            before = limit_threads(recipe.training.threads)
            try:
                stages = _stages(recipe, out, say, ranks)
                ground = prepare(recipe, out, stages, handed=Handed(), policy=policy, progress=progress)
            finally:
                limit_threads(before)
    assert ground.store is not None
    return ground.store.path


def _stages(recipe: Recipe, out: Path, say: Say, ranks: Ranks) -> Stages:
    device = device_of(recipe.training.device)
    return Stages(out / "store" / "stages", say, ranks, partial(advice_for, recipe), device)


def _arithmetic(recipe: Recipe) -> list[str]:
    """What is to be told where this machine does not compute as `training.precision` says."""
    precision, device = recipe.training.precision, device_of(recipe.training.device)
    used = computed_in(precision, device)
    if used == precision:
        return []
    return [
        f"training.precision: this CPU has no instructions for {precision} and would imitate it, several times slower "
        f"than {used}: computed in {used}, which rounds less."
    ]


def _judge_of(ground: Ground) -> Judge:
    """The judge that the run's task wants."""
    if not isinstance(ground.task, CausalLM):
        return LabelJudge(ground)
    return AnswerJudge(ground) if ground.task.metric == "exact_match" else LanguageJudge(ground)


def _finish(ground: Ground, judge: Judge, done: list[Seed], stages: Stages, policy: PolicyFacts) -> RunFacts:
    """From finished seeds to what is handed over."""
    best = max(done, key=lambda seed: judge.worth(seed.validation))
    chosen = _hand_over(best, ground)
    facts = certify(ground, judge, done, chosen, stages, policy)
    for seed in {seed.folder: seed for seed in [*done, chosen]}.values():
        sweep(seed.folder, seed.training, _exports(seed))
    write(facts, ground.recipe, ground.out)
    return facts


def _patience(recipe: Recipe) -> float:
    """Seconds after which a process that does not answer in training is given up."""
    given = recipe.training.extra.get("ddp_timeout")
    return float(given) if isinstance(given, int | float) else _PATIENCE


def _heard(ranks: Ranks, say: Say, progress: Progress) -> tuple[Say, Progress]:
    """The first process alone is heard."""
    return (say, progress) if ranks.first else (lambda _: None, lambda _, __, ___: None)


def _hand_over(chosen: Seed, ground: Ground) -> Seed:
    """Put the chosen seed's folders where a single seed's stand; the seeds keep theirs."""
    if chosen.folder == ground.out:
        return chosen
    withdraw(ground.out)
    for name in [*chosen.training, "export", "checkpoints"]:
        if (chosen.folder / name).is_dir():
            with atomic_folder(ground.out / name) as place:
                copy = _link if name == "checkpoints" else shutil.copy2
                shutil.copytree(chosen.folder / name, place, dirs_exist_ok=True, copy_function=copy)
    shutil.copy2(chosen.folder / "log.jsonl", ground.out / "log.jsonl")
    moved = [a.model_copy(update={"path": f"export/{Path(a.path).name}"}) for a in chosen.artifacts]
    return replace(chosen, folder=ground.out, artifacts=moved)


def _link(source: str, target: str) -> str:
    """A second name for a checkpoint's file, which is never written twice; a copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        return shutil.copy2(source, target)
    return target


def _exports(seed: Seed) -> set[str]:
    """Names below `export/` that the seed still speaks of."""
    return {Path(a.path).name for a in seed.artifacts} | {f"{r.kind}-{r.precision}.refused" for r in seed.refused}
