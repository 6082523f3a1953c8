"""Where the student lost: by class, by slice, by confused pair, and row by row.

Tables over several training seeds show the mean for classes and slices, the first seed for pairs and rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from attar.answers import answers, probabilities
from attar.evaluation.metrics import labelled_rows, score
from attar.facts import ClassFacts, ConfusionFacts, ExampleFacts
from attar.tasks.base import Problem, Task

Array = NDArray[Any]
Logits = Mapping[str, Sequence[Array]]
"""Per model (teacher, student, control, control_random) logits [N, C], one array a training seed."""

MAX_CONFUSIONS = 20
NO_ANSWER = "(none)"


def class_table(logits: Logits, labels: Array, task: Task) -> list[ClassFacts]:
    """Recall of each class that occurs; for multi-label the share of a label's rows in which it is given."""
    if task.problem == "regression":
        return []
    keep = labelled_rows(labels)
    truth = _memberships(labels[keep], len(task.labels), task.problem)
    given = {
        name: [_memberships(answers(one[keep], task.problem), len(task.labels), task.problem) for one in seeds]
        for name, seeds in logits.items()
    }
    table: list[ClassFacts] = []
    for index, label in enumerate(task.labels):
        rows = truth[:, index]
        if rows.any():
            recall = {name: float(np.mean([one[rows, index].mean() for one in seeds])) for name, seeds in given.items()}
            table.append(_line(label, int(rows.sum()), recall))
    return table


def slice_table(logits: Logits, labels: Array, task: Task, slices: Sequence[Any]) -> list[ClassFacts]:
    """The task's metric within each value of the slice column [N], on labelled rows, in the order of the values."""
    keep = labelled_rows(labels)
    names = np.array([str(value) for value in slices], dtype=object)
    table: list[ClassFacts] = []
    for name in sorted(set(names[keep])):
        rows = keep & (names == name)
        found = {
            model: float(np.mean([score(task.metric, one[rows], labels[rows], task.problem) for one in seeds]))
            for model, seeds in logits.items()
        }
        table.append(_line(name, int(rows.sum()), found))
    return table


def confusion_table(teacher: Array, student: Array, labels: Array, task: Task) -> list[ConfusionFacts]:
    """Pairs (truth, answer) that the student confuses more often than the teacher, worst first; single-label only."""
    if task.problem != "single_label":
        return []
    keep, classes = labelled_rows(labels), len(task.labels)
    counts: list[Array] = []
    for logits in (teacher, student):
        pairs = labels[keep] * classes + answers(logits[keep], task.problem)
        counts.append(np.bincount(pairs, minlength=classes * classes).reshape(classes, classes))
    worse = counts[1] - counts[0]
    np.fill_diagonal(worse, 0)
    order = np.argsort(-worse, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [divmod(int(flat), classes) for flat in order if worse.flat[flat] > 0]
    return [
        ConfusionFacts(
            truth=task.labels[a], answer=task.labels[b], teacher=int(counts[0][a, b]), student=int(counts[1][a, b])
        )
        for a, b in pairs
    ]


def example_table(
    teacher: Array, student: Array, labels: Array, rows: Dataset, task: Task, most: int
) -> list[ExampleFacts]:
    """Rows where teacher and student differ, those first where both are surest (regression: farthest apart)."""
    differ, order = _difference(teacher, student, task.problem)
    chosen = [int(i) for i in order if differ[i]][:most]
    known = labelled_rows(labels)
    given = [_words(answers(logits, task.problem), task) for logits in (teacher, student)]
    truth = _words(labels > 0.5 if task.problem == "multi_label" else labels, task, known)
    sure = [_confidence(logits, task.problem) for logits in (teacher, student)]
    return [
        ExampleFacts(
            **task.example(rows[i]),
            truth=truth[i],
            teacher=given[0][i] or NO_ANSWER,
            student=given[1][i] or NO_ANSWER,
            teacher_confidence=None if sure[0] is None else float(sure[0][i]),
            student_confidence=None if sure[1] is None else float(sure[1][i]),
        )
        for i in chosen
    ]


def _line(name: str, n: int, found: Mapping[str, float]) -> ClassFacts:
    return ClassFacts(
        name=name, n=n, teacher=found.get("teacher"), student=found["student"], control=found.get("control")
    )


def _memberships(given: Array, classes: int, problem: Problem) -> NDArray[np.bool_]:
    """Bool [N, C]: which labels a row has."""
    if problem == "multi_label":
        return given > 0.5
    return given[:, None] == np.arange(classes)


def _confidence(logits: Array, problem: Problem) -> Array | None:
    """Probability of the given answer [N]; for multi-label of its least certain decision; None for regression."""
    if problem == "regression":
        return None
    p = probabilities(logits, problem)
    return p.max(-1) if problem == "single_label" else np.maximum(p, 1 - p).min(-1)


def _difference(teacher: Array, student: Array, problem: Problem) -> tuple[NDArray[np.bool_], Array]:
    """Which rows [N] differ, and all rows in the order in which to show them."""
    one, other = answers(teacher, problem), answers(student, problem)
    if problem == "regression":
        apart = np.abs(one - other)
        return apart > 0, np.argsort(-apart, kind="stable")
    differ = one != other if one.ndim == 1 else (one != other).any(-1)
    sure = probabilities(teacher, problem).max(-1) + probabilities(student, problem).max(-1)
    return differ, np.argsort(-sure, kind="stable")


def _words(given: Array, task: Task, known: NDArray[np.bool_] | None = None) -> list[str | None]:
    """Answers or labels as people read them; None where `known` [N] is false."""

    def word(value: Any) -> str:
        match task.problem:
            case "single_label":
                return task.labels[int(value)]
            case "multi_label":
                return ", ".join(np.array(task.labels, dtype=object)[value]) or NO_ANSWER
            case "regression":
                return f"{float(value):.3g}"

    return [word(value) if known is None or known[i] else None for i, value in enumerate(given)]
