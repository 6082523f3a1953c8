"""The evaluation stage: from logits on the test split, read once, to everything that the report says about quality.

Nothing is chosen here. Metrics rest on labelled rows, agreement and divergence from the teacher on all rows. Without
any label agreement is the metric, and there is no control to compare with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from attar.answers import answers, mean_kl, same_answer
from attar.errors import TrainingError
from attar.evaluation.calibration import expected_calibration_error, reliability_bins
from attar.evaluation.metrics import (
    Statistic,
    correlation_of,
    labelled_rows,
    mean_of,
    right_rows,
    score,
    statistic,
    undefined,
)
from attar.evaluation.statistics import (
    Resampled,
    bootstrap_difference,
    bootstrap_metric,
    bootstrap_ratio,
    mcnemar,
    resample,
)
from attar.evaluation.tables import Logits, class_table, confusion_table, example_table, slice_table
from attar.facts import CalibrationFacts, EvaluationFacts, Interval, QualityFacts
from attar.recipe.outcome import ReportSpec
from attar.tasks.base import Task

Array = NDArray[Any]
GivenLogits = Mapping[str, Array | Sequence[Array]]
"""By model: `teacher`, `student`, and where they were trained `control`, `control_random`. Logits [N, C], or a list of
such arrays, one a training seed, in the same order of seeds for all models; the teacher has one or one a seed."""

UNLABELLED = (
    "The data has no labels: agreement with the teacher is the metric, there is no control, and quality against the "
    "truth is unknown."
)


class ArtifactScore(NamedTuple):
    """Quality of an exported file; all None without labels. Fields are named as in ArtifactFacts."""

    quality: float | None
    quality_interval: Interval | None
    retention: Interval | None


def evaluate(
    task: Task,
    logits: GivenLogits,
    labels: Array,
    rows: Dataset,
    *,
    validation_logits: GivenLogits,
    validation_labels: Array,
    temperature: float | Sequence[float],
    report: ReportSpec,
    seed: int = 0,
) -> EvaluationFacts:
    """Compare student, teacher and controls on the test rows.

    `labels` and `rows` (for the `slice` column and examples) belong to the test logits; labels as in `Encoded`.
    `temperature`: of the student's logits, fitted on validation; one a training seed where there are several.
    `validation_logits` holds any of the models, for the same metric on validation. `seed` seeds the resampling.
    Several training seeds: metrics are means over seeds; McNemar, pairs, examples and bins are of the first.
    """
    models = _lists(logits)
    notes: list[str] = []
    agreement = _agreement(task, models, report, seed)
    if task.problem == "regression":
        notes.append("Agreement is the Pearson correlation of student and teacher.")
    most = report.max_examples if report.examples else 0
    common: dict[str, Any] = {
        "agreement": agreement,
        "kl_to_teacher": _divergence(task, models),
        "examples": example_table(models["teacher"][0], models["student"][0], labels, rows, task, most),
    }
    if not labelled_rows(labels).any():
        quality = QualityFacts(
            metric="agreement", n=len(labels), teacher=None, student=None, control=None, intervals={}, validation={}
        )
        absent: dict[str, Any] = dict.fromkeys(("retention", "kd_gain", "mcnemar_p", "calibration"))
        return EvaluationFacts(quality=quality, notes=[UNLABELLED, *notes], **absent, **common)

    keep = labelled_rows(labels)
    if not keep.all():
        notes.append(f"{int((~keep).sum())} of {len(keep)} test rows have no label; the metric leaves them out.")
    found = _resampled(task, models, labels, report, seed)
    validation = {name: _mean_score(task, one, validation_labels) for name, one in _lists(validation_logits).items()}
    intervals = {name: bootstrap_metric(one, report.confidence) for name, one in found.items()}
    retention = bootstrap_ratio(found["student"], found["teacher"], report.confidence)
    if retention is None:
        notes.append(
            f"Retention is not defined: the teacher's {task.metric} ({found['teacher'].point:.4g}) is not above 0."
        )
    control = found.get("control")
    if control is None:
        notes.append("No control was trained, so the gain from distillation is not measured.")
    notes += _edges(task, models, labels)
    return EvaluationFacts(
        quality=QualityFacts(
            metric=task.metric,
            n=int(keep.sum()),
            teacher=intervals["teacher"].value,
            student=intervals["student"].value,
            control=None if control is None else control.point,
            control_random=found["control_random"].point if "control_random" in found else None,
            intervals=intervals,
            validation={name: value for name, value in validation.items() if value is not None},
        ),
        retention=retention,
        kd_gain=None if control is None else bootstrap_difference(found["student"], control, report.confidence),
        mcnemar_p=_mcnemar(task, models, labels),
        calibration=_calibration(task, models, labels, temperature),
        classes=class_table(models, labels, task),
        slices=slice_table(models, labels, task, rows["slice"]) if "slice" in rows.column_names else [],
        confusions=confusion_table(models["teacher"][0], models["student"][0], labels, task),
        notes=notes,
        **common,
    )


def score_artifact(
    task: Task, exported: Array, teacher: Array, labels: Array, report: ReportSpec, seed: int = 0
) -> ArtifactScore:
    """Quality and retention of an exported file, from its logits and the teacher's on the test rows, [N, C] each."""
    if not labelled_rows(labels).any():
        return ArtifactScore(None, None, None)
    found = _resampled(task, {"exported": [exported], "teacher": [teacher]}, labels, report, seed)
    return ArtifactScore(
        found["exported"].point,
        bootstrap_metric(found["exported"], report.confidence),
        bootstrap_ratio(found["exported"], found["teacher"], report.confidence),
    )


def _lists(logits: GivenLogits) -> dict[str, list[Array]]:
    models = {name: [one] if isinstance(one, np.ndarray) else list(one) for name, one in logits.items()}
    for name, seeds in models.items():
        bad = [int(np.argmin(np.isfinite(one).all(-1))) for one in seeds if not np.isfinite(one).all()]
        if bad:
            raise TrainingError(
                f"evaluation: the {name} answers row {bad[0]} with NaN or infinite logits, so it cannot be judged. "
                "Look at this row, or lower training.learning_rate."
            )
    return models


def _resampled(task: Task, models: Logits, labels: Array, report: ReportSpec, seed: int) -> dict[str, Resampled]:
    """The task's metric of all models on the same resamples of the labelled rows."""
    keep = labelled_rows(labels)
    functions: dict[str, list[Statistic]] = {
        name: [statistic(task.metric, one[keep], labels[keep], task.problem) for one in seeds]
        for name, seeds in models.items()
    }
    return resample(functions, int(keep.sum()), resamples=report.bootstrap, seed=seed)


def _mean_score(task: Task, seeds: Sequence[Array], labels: Array) -> float | None:
    if not labelled_rows(labels).any():
        return None
    return float(np.mean([score(task.metric, one, labels, task.problem) for one in seeds]))


def _pairs(models: Logits) -> list[tuple[Array, Array]]:
    """(teacher, student) of every training seed; a single teacher stands beside each student."""
    students, teachers = models["student"], models["teacher"]
    beside = teachers if len(teachers) == len(students) else [teachers[0]] * len(students)
    return list(zip(beside, students, strict=True))


def _agreement(task: Task, models: Logits, report: ReportSpec, seed: int) -> Interval:
    functions: list[Statistic] = []
    for teacher, student in _pairs(models):
        if task.problem == "regression":
            functions.append(correlation_of(answers(teacher, task.problem), answers(student, task.problem)))
        else:
            functions.append(mean_of(same_answer(teacher, student, task.problem)))
    rows = len(models["student"][0])
    found = resample({"agreement": functions}, rows, resamples=report.bootstrap, seed=seed)
    return bootstrap_metric(found["agreement"], report.confidence)


def _divergence(task: Task, models: Logits) -> float | None:
    if task.problem == "regression":
        return None
    return float(np.mean([mean_kl(teacher, student, task.problem) for teacher, student in _pairs(models)]))


def _mcnemar(task: Task, models: Logits, labels: Array) -> float | None:
    if task.problem == "regression" or "control" not in models:
        return None
    keep = labelled_rows(labels)
    right = [right_rows(answers(models[name][0][keep], task.problem), labels[keep]) for name in ("student", "control")]
    return mcnemar(*right)


def _calibration(
    task: Task, models: Logits, labels: Array, temperature: float | Sequence[float]
) -> CalibrationFacts | None:
    if task.problem == "regression":
        return None
    problem = task.problem
    students = models["student"]
    temperatures = [float(t) for t in (temperature if isinstance(temperature, Sequence) else [temperature])]
    if len(temperatures) == 1:
        temperatures *= len(students)
    named = {name: seeds for name, seeds in models.items() if name != "control_random"}
    named["student_calibrated"] = [one / t for one, t in zip(students, temperatures, strict=True)]
    return CalibrationFacts(
        ece={
            name: float(np.mean([expected_calibration_error(one, labels, problem) for one in seeds]))
            for name, seeds in named.items()
        },
        temperature=temperatures[0],
        bins={name: reliability_bins(seeds[0], labels, problem) for name, seeds in named.items()},
    )


def _edges(task: Task, models: Logits, labels: Array) -> list[str]:
    """What a reader must know of metrics that hold by definition only, and of classes that the test never asks for."""
    keep = labelled_rows(labels)
    notes = [
        f"The {name}'s {task.metric} is 0 by definition: its answers or the labels do not vary."
        for name, seeds in models.items()
        if any(undefined(task.metric, one[keep], labels[keep]) for one in seeds)
    ]
    if task.problem == "single_label":
        absent = [label for i, label in enumerate(task.labels) if not (labels[keep] == i).any()]
        if absent:
            notes.append(f"Labels without a test row: {', '.join(absent)}.")
    return notes
