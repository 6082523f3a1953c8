"""One function from a recipe's task to the task itself."""

from __future__ import annotations

import pytest

from attar.errors import PlanError
from attar.tasks import ImageClassification, TextClassification


def test_the_kind_chooses_the_class(make):
    assert isinstance(make(), TextClassification)
    assert isinstance(make(kind="image_classification"), ImageClassification)


def test_a_task_without_labels_is_refused(make):
    with pytest.raises(PlanError, match="Name them in the order of the teacher's outputs"):
        make(())
