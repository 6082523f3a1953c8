"""The evaluation stage on made-up logits: every number in the facts by hand or by another library."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.errors import TrainingError
from attar.evaluation.evaluate import evaluate, score_artifact
from attar.facts import EvaluationFacts
from attar.recipe.outcome import ReportSpec
from attar.recipe.task import TextClassificationSpec
from attar.tasks import Task, make_task

LABELS = ("a", "b", "c")
N = 90
REPORT = ReportSpec(bootstrap=200)
TASK = make_task(TextClassificationSpec(kind="text_classification"), LABELS)
TRUTH = np.arange(N) % 3


def task_of(problem: str, labels: tuple[str, ...] = LABELS, metric: str = "auto") -> Task:
    return make_task(TextClassificationSpec(kind="text_classification", problem=problem, metric=metric), labels)


def noisy(share: float, seed: int, truth: np.ndarray = TRUTH) -> np.ndarray:
    """Logits that are right on about `share` of the rows."""
    rng = np.random.default_rng(seed)
    given_answers = np.where(rng.random(len(truth)) < share, truth, rng.integers(0, 3, len(truth)))
    return (3 * np.eye(3)[given_answers] + rng.normal(size=(len(truth), 3)) * 0.3).astype(np.float32)


LOGITS = {"teacher": noisy(0.95, 1), "student": noisy(0.85, 2), "control": noisy(0.6, 3)}


def rows_of(n: int = N, **columns: list[str]) -> Dataset:
    return Dataset.from_dict({"text": [f"row {i}" for i in range(n)], **columns})


def judge(logits=LOGITS, labels=TRUTH, task=TASK, rows=None, report=REPORT, temperature=1.5, **options):
    options = {"validation_logits": logits, "validation_labels": labels, **options}
    rows = rows_of(len(labels)) if rows is None else rows
    facts = evaluate(task, logits, labels, rows, report=report, temperature=temperature, **options)
    text = json.dumps(facts.model_dump(mode="json"), allow_nan=False)
    assert EvaluationFacts.model_validate_json(text) == facts
    return facts


def test_quality_retention_and_gain() -> None:
    facts = judge()
    right = {name: (one.argmax(1) == TRUTH).mean() for name, one in LOGITS.items()}
    assert facts.quality.metric == "accuracy"
    assert facts.quality.n == N
    assert facts.quality.teacher == pytest.approx(right["teacher"])
    assert facts.quality.validation == pytest.approx(right)
    assert facts.retention.value == pytest.approx(right["student"] / right["teacher"])
    assert facts.retention.lo <= facts.retention.value <= facts.retention.hi
    assert facts.kd_gain.value == pytest.approx(right["student"] - right["control"])
    assert facts.agreement.value == (LOGITS["teacher"].argmax(1) == LOGITS["student"].argmax(1)).mean()
    assert 0 <= facts.mcnemar_p <= 1
    assert facts.kl_to_teacher > 0
    assert facts.notes == []


def test_identical_models_keep_everything() -> None:
    facts = judge({"teacher": LOGITS["teacher"], "student": LOGITS["teacher"]})
    assert facts.retention.value == facts.retention.lo == facts.retention.hi == 1
    assert facts.agreement.value == 1
    assert facts.kl_to_teacher == 0
    assert facts.confusions == facts.examples == []
    assert facts.kd_gain is None
    assert any("No control" in note for note in facts.notes)


@given(st.permutations(range(N)))
@settings(max_examples=8)
def test_the_order_of_rows_changes_no_value(order: list[int]) -> None:
    shuffled = judge({name: one[order] for name, one in LOGITS.items()}, TRUTH[order])
    facts = judge()
    assert shuffled.retention.value == facts.retention.value
    assert shuffled.agreement.value == facts.agreement.value
    assert shuffled.mcnemar_p == facts.mcnemar_p
    assert shuffled.classes == facts.classes
    assert shuffled.confusions == facts.confusions
    assert shuffled.calibration.ece == pytest.approx(facts.calibration.ece)


def test_calibration_names_every_model_and_the_calibrated_student() -> None:
    facts = judge()
    assert set(facts.calibration.ece) == {"teacher", "student", "control", "student_calibrated"}
    assert facts.calibration.temperature == 1.5
    assert sum(count for _, _, count in facts.calibration.bins["student"]) == N
    assert facts.calibration.ece["student"] != facts.calibration.ece["student_calibrated"]


def test_classes_and_slices() -> None:
    slices = ["short" if i % 2 else "long" for i in range(N)]
    facts = judge(rows=rows_of(slice=slices))
    for index, line in enumerate(facts.classes):
        rows = index == TRUTH
        assert (line.name, line.n) == (LABELS[index], 30)
        assert line.student == pytest.approx((LOGITS["student"].argmax(1) == TRUTH)[rows].mean())
    assert [(one.name, one.n) for one in facts.slices] == [("long", 45), ("short", 45)]
    odd = np.arange(N) % 2 == 1
    assert facts.slices[1].control == pytest.approx((LOGITS["control"].argmax(1) == TRUTH)[odd].mean())


def test_confused_pairs_that_got_worse() -> None:
    facts = judge()
    assert facts.confusions
    for pair in facts.confusions:
        assert pair.student > pair.teacher
        rows = LABELS.index(pair.truth) == TRUTH
        assert pair.student == (LOGITS["student"].argmax(1)[rows] == LABELS.index(pair.answer)).sum()
    worse = [pair.student - pair.teacher for pair in facts.confusions]
    assert worse == sorted(worse, reverse=True)


def test_examples_are_rows_where_they_differ() -> None:
    facts = judge(report=ReportSpec(bootstrap=200, max_examples=5))
    assert len(facts.examples) == 5
    for one in facts.examples:
        row = int(one.text.split()[1])
        assert one.teacher == LABELS[LOGITS["teacher"][row].argmax()] != one.student
        assert one.truth == LABELS[TRUTH[row]]
        assert 0 < one.student_confidence <= 1
    assert judge(report=ReportSpec(bootstrap=200, examples=False)).examples == []


def test_several_seeds() -> None:
    students = [noisy(0.85, seed) for seed in (2, 12, 22)]
    controls = [noisy(0.6, seed) for seed in (3, 13, 23)]
    facts = judge({"teacher": LOGITS["teacher"], "student": students, "control": controls}, temperature=[1.0, 1.1, 1.2])
    means = [np.mean([(one.argmax(1) == TRUTH).mean() for one in seeds]) for seeds in (students, controls)]
    assert facts.quality.student == pytest.approx(means[0])
    assert facts.kd_gain.value == pytest.approx(means[0] - means[1])
    assert facts.kd_gain.seeds == facts.retention.seeds == facts.agreement.seeds == 3
    assert facts.calibration.temperature == 1.0


def test_random_control_is_a_second_line() -> None:
    facts = judge({**LOGITS, "control_random": noisy(0.4, 4)})
    assert facts.quality.control_random < facts.quality.control
    assert "control_random" in facts.quality.intervals


def test_without_labels_agreement_is_the_metric() -> None:
    unlabelled = np.full(N, -100)
    facts = judge({"teacher": LOGITS["teacher"], "student": LOGITS["student"]}, unlabelled)
    assert facts.quality.metric == "agreement"
    assert facts.quality.teacher is facts.quality.student is facts.quality.control is None
    assert facts.retention is facts.kd_gain is facts.calibration is facts.mcnemar_p is None
    assert facts.agreement.n == N
    assert facts.kl_to_teacher > 0
    assert facts.examples[0].truth is None
    assert any("no control" in note for note in facts.notes)
    assert score_artifact(TASK, LOGITS["student"], LOGITS["teacher"], unlabelled, REPORT) == (None, None, None)


def test_some_rows_without_label_are_left_out_of_the_metric_only() -> None:
    labels = TRUTH.copy()
    labels[:30] = -100
    facts = judge(labels=labels)
    assert facts.quality.n == 60
    assert facts.agreement.n == N
    assert any("30 of 90" in note for note in facts.notes)


def test_regression_and_its_edges() -> None:
    truth = np.linspace(0, 1, N).astype(np.float32)
    teacher = truth[:, None] + np.random.default_rng(0).normal(size=(N, 1)).astype(np.float32) * 0.1
    flat = np.full((N, 1), 0.5, np.float32)
    facts = judge({"teacher": teacher, "student": flat}, truth, task_of("regression", ("score",)))
    assert facts.quality.metric == "spearman"
    assert facts.quality.student == facts.retention.value == 0
    assert facts.calibration is facts.kl_to_teacher is None
    assert facts.classes == facts.confusions == []
    assert any("student's spearman is 0 by definition" in note for note in facts.notes)
    assert facts.examples[0].student == "0.5"
    reverse = judge({"teacher": flat, "student": teacher}, truth, task_of("regression", ("score",)))
    assert reverse.retention is None
    assert any("Retention is not defined" in note for note in reverse.notes)


def test_several_labels_a_row() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((N, 3)) < 0.4).astype(np.float32)
    logits = {
        name: ((truth - 0.5) * 4 + rng.normal(size=truth.shape) * noise).astype(np.float32)
        for name, noise in (("teacher", 0.5), ("student", 1.5), ("control", 2.5))
    }
    facts = judge(logits, truth, task_of("multi_label"))
    assert facts.quality.metric == "micro_f1"
    assert facts.quality.teacher > facts.quality.student > facts.quality.control
    assert facts.confusions == []
    assert facts.classes[0].n == truth[:, 0].sum()
    assert any(one.student == "(none)" or "," in one.student for one in facts.examples)


def test_classes_that_the_test_never_asks_for_are_named() -> None:
    rows = TRUTH != 2
    facts = judge({name: one[rows] for name, one in LOGITS.items()}, TRUTH[rows])
    assert [one.name for one in facts.classes] == ["a", "b"]
    assert any("Labels without a test row: c" in note for note in facts.notes)


def test_nan_logits_are_named() -> None:
    broken = LOGITS["student"].copy()
    broken[7, 1] = np.nan
    with pytest.raises(TrainingError, match="the student answers row 7 with NaN"):
        judge({**LOGITS, "student": broken})


def test_an_artifact_is_scored_beside_the_teacher() -> None:
    quality, interval, retention = score_artifact(TASK, LOGITS["student"], LOGITS["teacher"], TRUTH, REPORT)
    facts = judge()
    assert quality == facts.quality.student == interval.value
    assert retention == facts.retention
