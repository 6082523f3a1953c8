"""From trainings to figures: choose a setting a row on validation, compare all rows on the test, seed by seed.

Intervals are attar's paired bootstrap: seeds are drawn first, then test rows, the same for all rows and the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from rows import CONTROL, NO_ROW, REFERENCE, ROWS, Row, Setting, rows_of
from trainings import Outcome, Trainings

from attar.answers import mean_kl, same_answer
from attar.bench.size import count_params
from attar.evaluation.metrics import Statistic, mean_of, score, statistic
from attar.evaluation.statistics import bootstrap_difference, bootstrap_metric, resample
from attar.facts import Interval
from attar.tasks.base import Problem

RESAMPLES = 2000
TEACHER = "teacher"


class Searched(NamedTuple):
    """A setting and its quality on validation, one value a search seed; NaN where the training failed."""

    setting: Setting
    validation: tuple[float, ...]


def choose(searched: Sequence[Searched]) -> Searched:
    """The best mean on validation; of equals the one that was tried first. One that failed is never chosen over one
    that did not.
    """

    def worth(one: Searched) -> float:
        mean = fmean(one.validation)
        return -math.inf if math.isnan(mean) else mean

    return max(searched, key=worth)


class Judge(NamedTuple):
    """What answers are held against: the task's metric, the labels, and the teacher's own logits."""

    metric: str
    problem: Problem
    labels: np.ndarray
    teacher: np.ndarray

    def score(self, logits: np.ndarray) -> float:
        """Quality of logits [N, C]."""
        return score(self.metric, logits, self.labels, self.problem)

    def statistic(self, logits: np.ndarray) -> Statistic:
        """The same as a function of row weights."""
        return statistic(self.metric, logits, self.labels, self.problem)


def compare(
    logits: Mapping[str, Sequence[np.ndarray]], judge: Judge, *, resamples: int = RESAMPLES
) -> dict[str, dict[str, Interval]]:
    """By row: its quality, the differences to the control and to the reference, its agreement with the teacher; of the
    teacher its quality. `logits`: by row [N, C] arrays, one a seed, the same seeds in the same order for all rows.
    """
    statistics: dict[str, list[Statistic]] = {TEACHER: [judge.statistic(judge.teacher)]}
    for name, seeds in logits.items():
        statistics[name] = [judge.statistic(one) for one in seeds]
        statistics[f"{name}/agreement"] = [mean_of(same_answer(one, judge.teacher, judge.problem)) for one in seeds]
    found = resample(statistics, len(judge.labels), resamples=resamples)
    compared = {TEACHER: {"test": bootstrap_metric(found[TEACHER])}}
    for name in logits:
        compared[name] = {"test": bootstrap_metric(found[name])}
        for other, title in ((CONTROL, "over_control"), (REFERENCE, "over_reference")):
            if other in found and other != name:
                compared[name][title] = bootstrap_difference(found[name], found[other])
        compared[name]["agreement"] = bootstrap_metric(found[f"{name}/agreement"])
    return compared


class Trained(NamedTuple):
    """All trainings of one row."""

    searched: list[Searched]
    chosen: Searched
    finals: list[Outcome]


def train_row(trainings: Trainings, row: Row, say: Callable[[str], None]) -> Trained:
    """Search a row's settings on validation, then train the chosen one from every seed."""
    case, task = trainings.case, trainings.ground.task
    labels = trainings.labels("validation")

    def quality(outcome: Outcome) -> float:
        return math.nan if outcome.logits is None else score(task.metric, outcome.logits, labels, task.problem)

    searched = [
        Searched(
            setting,
            tuple(quality(trainings.outcome(row, setting, seed, "validation")) for seed in case.search_seeds),
        )
        for setting in row.settings(case.rates)
    ]
    chosen = choose(searched)
    finals = [trainings.outcome(row, chosen.setting, seed, "test") for seed in case.seeds]
    say(f"{case.name}: {row.name}: {_told(chosen)}, {len(finals)} seeds, {finals[-1].seconds:.1f} s a training")
    return Trained(searched, chosen, finals)


def case_figures(trainings: Trainings, trained: Mapping[str, Trained], *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Everything about a case as JSON holds it; rows that failed stand apart."""
    case, ground = trainings.case, trainings.ground
    task = ground.task
    judge = Judge(task.metric, task.problem, trainings.labels("test"), trainings.teacher("test"))
    whole = {
        name: [outcome.logits for outcome in found.finals if outcome.logits is not None]
        for name, found in trained.items()
        if all(outcome.logits is not None for outcome in found.finals)
    }
    compared = compare(whole, judge, resamples=resamples)
    validation = score(task.metric, trainings.teacher("validation"), trainings.labels("validation"), task.problem)
    every = [outcome.seconds for found in trained.values() for outcome in found.finals]
    return {
        "title": case.title,
        "metric": task.metric,
        "rows_of_data": {part: len(getattr(ground.splits, part)) for part in ("train", "validation", "test")},
        "recipe": dict(case.sections),
        "teacher": {
            "params": ground.teacher_facts.params,
            "validation": validation,
            "test": compared[TEACHER]["test"].model_dump(),
        },
        "student": {"params": count_params(trainings.student(0).model)},
        "search": {
            "learning_rates": list(case.rates),
            "seeds": list(case.search_seeds),
            "settings_a_row": len(ROWS[0].settings(case.rates)),
        },
        "seeds": list(case.seeds),
        "steps": trainings.steps(),
        "cpu_seconds_a_training": sorted(every)[len(every) // 2],
        "left_out": {**NO_ROW, **{row.name: row.left_out[case.name] for row in ROWS if case.name in row.left_out}},
        "failed": {name: _failure(found) for name, found in trained.items() if name not in whole},
        "rows": {
            row.name: _row_figures(row, case.name, trained[row.name], compared[row.name], whole[row.name], judge)
            for row in rows_of(case.name)
            if row.name in whole
        },
    }


def _row_figures(
    row: Row, case: str, found: Trained, compared: Mapping[str, Interval], logits: Sequence[np.ndarray], judge: Judge
) -> dict[str, Any]:
    return {
        "note": row.note,
        "objectives": [one.model_dump(mode="json") for one in row.specs(found.chosen.setting.weight, case)],
        "searched": [
            {**one.setting._asdict(), "validation": [None if math.isnan(v) else v for v in one.validation]}
            for one in found.searched
        ],
        "chosen": found.chosen.setting._asdict(),
        "seeds": [judge.score(one) for one in logits],
        **{name: interval.model_dump() for name, interval in compared.items()},
        "kl_to_teacher": fmean(mean_kl(judge.teacher, one, judge.problem) for one in logits),
        "cpu_seconds": [round(outcome.seconds, 2) for outcome in found.finals],
    }


def _failure(found: Trained) -> str:
    failed = [outcome.failed for outcome in found.finals if outcome.failed]
    return f"{len(failed)} of {len(found.finals)} seeds: {failed[0]}"


def _told(chosen: Searched) -> str:
    weight = "" if chosen.setting.weight is None else f", weight {chosen.setting.weight:g}"
    return f"rate {chosen.setting.learning_rate:.4g}{weight} (validation {fmean(chosen.validation):.4f})"
