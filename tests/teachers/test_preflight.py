from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

import tiny
from attar.recipe.task import ImageClassificationSpec, TextClassificationSpec
from attar.signals import Wanted
from attar.tasks import make_task
from attar.teachers.preflight import judge_answers, judge_normalisation, preflight
from attar.teachers.scoring import score_rows
from teachers.tiny_texts import LABELS, rows


def answers(truth: np.ndarray, right: float, seed: int = 0) -> np.ndarray:
    """Logits [N, 3] that are right on about a share of the rows, elsewhere at random."""
    rng = np.random.default_rng(seed)
    given = np.where(rng.random(len(truth)) < right, truth, rng.integers(0, 3, len(truth)))
    return np.eye(3, dtype=np.float32)[given] * 4


TRUTH = np.arange(300) % 3


def test_a_good_teacher_gets_no_warning(task):
    assert judge_answers(answers(TRUTH, 0.9), TRUTH, task) == []


@pytest.mark.parametrize("right", [0.0, 0.05])
def test_a_teacher_at_chance_is_called_out_with_numbers(task, right):
    (warning,) = judge_answers(answers(TRUTH, right), TRUTH, task)
    assert "BARELY BETTER THAN CHANCE" in warning
    assert "constant answer on 33.3%" in warning
    assert "accuracy 0.3" in warning


def test_the_baseline_is_the_largest_class(task):
    skewed = np.where(np.arange(300) % 10 == 0, 1, 0)
    (warning,) = judge_answers(np.tile([1.0, 0.0, 0.0], (300, 1)), skewed, task)
    assert "constant answer on 90.0%" in warning


def test_another_order_of_labels_is_seen(task):
    turned = answers((TRUTH + 1) % 3, 0.9)
    warnings = judge_answers(turned, TRUTH, task)
    assert "ANOTHER ORDER" in warnings[-1]
    assert '"cash" fits "card"' in warnings[-1]


def test_rows_without_labels_are_left_out_and_none_is_no_warning(task):
    assert judge_answers(answers(TRUTH, 0.0), np.full(300, -100), task) == []
    half = np.where(np.arange(300) < 150, TRUTH, -100)
    logits = np.where((half == -100)[:, None], answers((TRUTH + 1) % 3, 1.0), answers(TRUTH, 1.0))
    assert judge_answers(logits, half, task) == []


def test_several_labels_and_numbers():
    rng = np.random.default_rng(0)
    several = make_task(TextClassificationSpec(kind="text_classification", problem="multi_label"), LABELS)
    marks = (rng.random((200, 3)) < 0.4).astype(np.float32)
    assert judge_answers(marks * 8 - 4, marks, several) == []
    assert judge_answers(np.full((200, 3), -1.0), marks, several)
    number = make_task(TextClassificationSpec(kind="text_classification", problem="regression"), ("score",))
    scores = rng.normal(size=200).astype(np.float32)
    assert judge_answers(scores[:, None] * 2 + 1, scores, number) == []
    assert "rank correlation" in judge_answers(rng.normal(size=(200, 1)), scores, number)[0]
    assert judge_answers(np.ones((200, 1)), scores, number)


def test_an_untrained_model_is_called_out(teacher, task, tokenizer):
    encoded = task.encode(rows(150), tokenizer)
    wanted = score_rows(teacher.model, task, encoded, tokenizer, Wanted(), batch_tokens=1024, split="validation")
    warnings = preflight(wanted["logits"], encoded, tokenizer, task)
    assert "BARELY BETTER THAN CHANCE" in warnings[0]


def images(brightness: float, n: int = 20) -> Dataset:
    labels = [0, 1] * (n // 2)
    dimmed = [image.point(lambda value: int(value * brightness)) for image in tiny.tiny_images(labels)]
    return Dataset.from_dict({"image": dimmed, "label": labels})


def image_task(**more: object):
    spec = ImageClassificationSpec.model_validate({"kind": "image_classification", "image_size": 8, **more})
    return make_task(spec, ("dark", "light"))


def test_a_stated_normalisation_must_be_the_teachers():
    processor = tiny.tiny_image_processor()
    same = image_task(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    other = image_task(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    table = images(1.0)
    assert judge_normalisation(processor, same, same.encode(table, processor)) == []
    assert judge_normalisation(processor, image_task(), same.encode(table, processor)) == []
    (warning,) = judge_normalisation(processor, other, other.encode(table, processor))
    assert "IMAGE NORMALISATION (mean 0.5/0.5/0.5, std 0.5/0.5/0.5) IS NOT THE TASK'S" in warning
    assert "0.485" in warning


def test_data_far_from_the_normalisation_is_seen():
    task, processor = image_task(), tiny.tiny_image_processor()
    assert judge_normalisation(processor, task, task.encode(images(0.01), processor))
    processor.image_std = [0.01, 0.01, 0.01]
    assert "FAR FROM" in judge_normalisation(processor, task, task.encode(images(1.0), processor))[0]


def test_texts_have_no_normalisation(task, tokenizer):
    assert judge_normalisation(tokenizer, task, task.encode(rows(3), tokenizer)) == []
