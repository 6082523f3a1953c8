"""The evaluation of language models: from sums over each row's tokens to all that the report says about quality.

Perplexity is exp of the mean surprise a token, tokens counted as the teacher's tokenizer cuts them, for every model
alike; so models with other vocabularies compare. Lower is better: retention is the teacher's over the student's, the
gain is the control's minus the student's. Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from attar.evaluation.evaluate import ArtifactScore
from attar.evaluation.metrics import Statistic
from attar.evaluation.statistics import bootstrap_difference, bootstrap_metric, bootstrap_ratio, resample
from attar.evaluation.tokens import COLUMN, TEACHER
from attar.facts import ClassFacts, EvaluationFacts, ExampleFacts, QualityFacts
from attar.recipe.outcome import ReportSpec
from attar.tasks.base import Task

Array = NDArray[Any]
Tables = Mapping[str, Sequence[Array]]
"""By model float64 [N, 5] as `ask_about_rows` gives them, one a training seed; the teacher has one."""

METRIC = "perplexity"


def perplexity(table: Array) -> float:
    """Of all rows [N, 5]."""
    return float(_perplexity(table)(np.ones((1, len(table))))[0])


def agreement(table: Array) -> float:
    """Share of the tokens for which model and teacher have the same likeliest one; 0 where none is compared."""
    compared = table[:, COLUMN.compared].sum()
    return float(table[:, COLUMN.same].sum() / compared) if compared else 0.0


def divergence(table: Array) -> float:
    """Mean KL(teacher || model) of the tokens that are compared, nats."""
    return float(_ratio(table, COLUMN.kl, COLUMN.compared)(np.ones((1, len(table))))[0])


def score_file(exported: Array, teacher: Array, report: ReportSpec, *, seed: int = 0) -> ArtifactScore:
    """Perplexity and retention of an exported file, from its sums and the teacher's on the test rows, [N, 5] each."""
    own = exported.copy()
    own[:, COLUMN.tokens] = teacher[:, COLUMN.tokens]
    functions = {"exported": [_perplexity(own)], TEACHER: [_perplexity(teacher)]}
    found = resample(functions, len(teacher), resamples=report.bootstrap, seed=seed)
    return ArtifactScore(
        found["exported"].point,
        bootstrap_metric(found["exported"], report.confidence),
        bootstrap_ratio(found[TEACHER], found["exported"], report.confidence),
    )


def evaluate_language(
    task: Task, test: Tables, validation: Tables, rows: Dataset, report: ReportSpec, *, seed: int = 0
) -> EvaluationFacts:
    """Compare student, teacher and controls on the test rows. `seed` seeds the resampling."""
    statistics: dict[str, list[Statistic]] = {name: [_perplexity(one) for one in seeds] for name, seeds in test.items()}
    statistics["agreement"] = [_ratio(one, COLUMN.same, COLUMN.compared) for one in test["student"]]
    found = resample(statistics, len(rows), resamples=report.bootstrap, seed=seed)
    intervals = {name: bootstrap_metric(found[name], report.confidence) for name in test}
    control = found.get("control")
    compared = all(one[:, COLUMN.compared].any() for one in test["student"])
    return EvaluationFacts(
        quality=QualityFacts(
            metric=METRIC,
            n=len(rows),
            teacher=intervals[TEACHER].value,
            student=intervals["student"].value,
            control=None if control is None else control.point,
            control_random=found["control_random"].point if "control_random" in found else None,
            intervals=intervals,
            validation={name: float(np.mean([perplexity(one) for one in seeds])) for name, seeds in validation.items()},
        ),
        retention=bootstrap_ratio(found[TEACHER], found["student"], report.confidence),
        kd_gain=None if control is None else bootstrap_difference(control, found["student"], report.confidence),
        agreement=bootstrap_metric(found["agreement"], report.confidence) if compared else None,
        kl_to_teacher=float(np.mean([divergence(one) for one in test["student"]])) if compared else None,
        calibration=None,
        slices=_slices(test, rows["slice"]) if "slice" in rows.column_names else [],
        examples=_examples(task, test, rows, report.max_examples if report.examples else 0),
        notes=_notes(test["student"]),
    )


def _ratio(table: Array, over: int, under: int) -> Statistic:
    """A weighted ratio of sums; 0 where nothing stands below."""
    top, bottom = table[:, over], table[:, under]

    def compute(weights: Array) -> Array:
        below = weights @ bottom
        return np.divide(weights @ top, below, out=np.zeros(len(weights)), where=below > 0)

    return compute


def _perplexity(table: Array) -> Statistic:
    mean = _ratio(table, COLUMN.nll, COLUMN.tokens)
    return lambda weights: np.exp(mean(weights))


def _slices(test: Tables, slices: Sequence[Any]) -> list[ClassFacts]:
    names = np.array([str(value) for value in slices], dtype=object)
    lines: list[ClassFacts] = []
    for name in sorted(set(names)):
        rows = names == name
        found = {model: float(np.mean([perplexity(one[rows]) for one in seeds])) for model, seeds in test.items()}
        lines.append(
            ClassFacts(
                name=name, n=int(rows.sum()), teacher=found[TEACHER], student=found["student"],
                control=found.get("control"),
            )
        )  # fmt: skip
    return lines


def _examples(task: Task, test: Tables, rows: Dataset, most: int) -> list[ExampleFacts]:
    """Rows on which the student lost most, by surprise a token."""
    teacher, student = test[TEACHER][0], test["student"][0]
    tokens = np.maximum(teacher[:, COLUMN.tokens], 1)
    lost = (student[:, COLUMN.nll] - teacher[:, COLUMN.nll]) / tokens
    order = [int(row) for row in np.argsort(-lost, kind="stable") if lost[row] > 0][:most]
    return [
        ExampleFacts(
            text=task.example(rows[row])["text"],
            teacher=_told(teacher[row, COLUMN.nll] / tokens[row]),
            student=_told(student[row, COLUMN.nll] / tokens[row]),
        )
        for row in order
    ]


def _told(surprise: float) -> str:
    """Perplexity in words, from nats a token."""
    value = float(np.exp(surprise))
    return f"perplexity {value:,.0f}" if value >= 100 else f"perplexity {value:.1f}"


def _notes(students: Sequence[Array]) -> list[str]:
    table = students[0]
    tokens, compared = table[:, COLUMN.tokens].sum(), table[:, COLUMN.compared].sum()
    notes = [f"Perplexity is a token's, over {tokens:,.0f} test tokens as the teacher's tokenizer cuts them."]
    if not compared:
        notes.append(
            "Agreement and divergence do not apply: the student has another tokenizer, or cuts every row "
            "otherwise, so no token of it can be laid beside one of the teacher's."
        )
    elif compared < tokens:
        notes.append(
            f"Agreement and divergence rest on {compared / tokens:.1%} of these: elsewhere the student's tokenizer "
            "cuts the text otherwise."
        )
    return notes
