"""The evaluation of language models by exact match: the share of held-out prompts that are answered as the data does.

Higher is better: retention is the student's share over the teacher's, the gain is the student's minus the control's.
Perplexity, divergence and agreement are told beside it, token by token as ever. Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch import nn

from attar.evaluation.evaluate import ArtifactScore
from attar.evaluation.metrics import mean_of
from attar.evaluation.statistics import (
    bootstrap_difference,
    bootstrap_metric,
    bootstrap_ratio,
    mcnemar,
    resample,
)
from attar.evaluation.tokens import TEACHER
from attar.evaluation.written import right_answers, write_answers, written_facts
from attar.facts import ClassFacts, EvaluationFacts, ExampleFacts, QualityFacts
from attar.recipe.outcome import ReportSpec
from attar.tasks.base import Processor
from attar.tasks.causal_lm import CausalLM

Array = NDArray[Any]
Written = Mapping[str, Sequence[Array]]
"""By model records [N] as `write_answers` makes them, one array a training seed; the teacher has one."""

METRIC = "exact_match"
_SHOWN = 500


def watched_match(
    model: nn.Module, processor: Processor, task: CausalLM, rows: Dataset, *, device: str = "cpu"
) -> float:
    """Exact match on `generation.watched_rows` of the rows, evenly spaced: what training looks at."""
    most = min(task.spec.generation.watched_rows, len(rows))
    some = rows.select(np.unique(np.linspace(0, len(rows) - 1, most).astype(np.int64)).tolist())
    return float(right_answers(some, write_answers(model, processor, task, some, device=device)).mean())


def score_written(
    rows: Dataset, exported: Array, teacher: Array, report: ReportSpec, *, seed: int = 0
) -> ArtifactScore:
    """Exact match and retention of an exported file, from what it and the teacher wrote to the test rows."""
    functions = {"exported": [mean_of(right_answers(rows, exported))], TEACHER: [mean_of(right_answers(rows, teacher))]}
    found = resample(functions, len(rows), resamples=report.bootstrap, seed=seed)
    return ArtifactScore(
        found["exported"].point,
        bootstrap_metric(found["exported"], report.confidence),
        bootstrap_ratio(found["exported"], found[TEACHER], report.confidence),
    )


def evaluate_written(
    task: CausalLM,
    by_token: EvaluationFacts,
    test: Written,
    validation: Written,
    rows: Dataset,
    validation_rows: Dataset,
    report: ReportSpec,
    *,
    seed: int = 0,
) -> EvaluationFacts:
    """What models wrote to the test rows becomes the quality; `by_token`, as `evaluate_language` found it, the rest."""
    right = {name: [right_answers(rows, one) for one in seeds] for name, seeds in test.items()}
    statistics = {name: [mean_of(one) for one in seeds] for name, seeds in right.items()}
    found = resample(statistics, len(rows), resamples=report.bootstrap, seed=seed)
    intervals = {name: bootstrap_metric(one, report.confidence) for name, one in found.items()}
    control, retention = found.get("control"), bootstrap_ratio(found["student"], found[TEACHER], report.confidence)
    longest = task.spec.generation.max_tokens
    written = {name: written_facts(rows, seeds, longest) for name, seeds in test.items()}
    notes = [
        f"The {name} did not end {one.cut:.1%} of its answers within {longest} tokens."
        for name, one in written.items()
        if one.cut
    ]
    if retention is None:
        notes.append("Retention is not defined: the teacher answers no test row as the data does.")
    return by_token.model_copy(
        update={
            "quality": QualityFacts(
                metric=METRIC,
                n=len(rows),
                teacher=intervals[TEACHER].value,
                student=intervals["student"].value,
                control=None if control is None else control.point,
                control_random=found["control_random"].point if "control_random" in found else None,
                intervals=intervals,
                validation={
                    name: float(np.mean([right_answers(validation_rows, one).mean() for one in seeds]))
                    for name, seeds in validation.items()
                },
            ),
            "retention": retention,
            "kd_gain": None if control is None else bootstrap_difference(found["student"], control, report.confidence),
            "mcnemar_p": None if control is None else mcnemar(right["student"][0], right["control"][0]),
            "slices": _slices(right, rows["slice"]) if "slice" in rows.column_names else [],
            "examples": _examples(rows, test, right, report.max_examples if report.examples else 0),
            "perplexity": {name: one.value for name, one in by_token.quality.intervals.items()},
            "written": written,
            "notes": [*notes, *by_token.notes],
        }
    )


def _slices(right: Mapping[str, Sequence[Array]], slices: Sequence[Any]) -> list[ClassFacts]:
    names = np.array([str(value) for value in slices], dtype=object)
    lines: list[ClassFacts] = []
    for name in sorted(set(names)):
        rows = names == name
        share = {model: float(np.mean([one[rows].mean() for one in seeds])) for model, seeds in right.items()}
        lines.append(
            ClassFacts(
                name=name, n=int(rows.sum()), teacher=share[TEACHER], student=share["student"],
                control=share.get("control"),
            )
        )  # fmt: skip
    return lines


def _examples(rows: Dataset, test: Written, right: Mapping[str, Sequence[Array]], most: int) -> list[ExampleFacts]:
    """Rows that the student answers wrongly, those first which the teacher answers rightly; of the first seed."""
    taught, learned = right[TEACHER][0], right["student"][0]
    order = [*np.flatnonzero(taught & ~learned), *np.flatnonzero(~taught & ~learned)][:most]
    return [
        ExampleFacts(
            text=_short(str(rows[int(row)]["prompt"])),
            truth=_short(str(rows[int(row)]["text"])),
            teacher=_short(str(test[TEACHER][0]["text"][row])),
            student=_short(str(test["student"][0]["text"][row])),
        )
        for row in order
    ]


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
