"""Tasks: how rows become batches, which model serves them, which metric counts. One file a task."""

from __future__ import annotations

from typing import assert_never

from attar.errors import PlanError
from attar.recipe.task import CausalLMSpec, ImageClassificationSpec, TaskSpec, TextClassificationSpec
from attar.tasks.base import Task
from attar.tasks.causal_lm import CausalLM
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification

__all__ = ["CausalLM", "ImageClassification", "Task", "TextClassification", "make_task"]


def make_task(spec: TaskSpec, labels: tuple[str, ...]) -> Task:
    """The task of a recipe with its label names by id (one name for regression; a language model has none). Raises
    PlanError where there are none.
    """
    if isinstance(spec, CausalLMSpec):
        return CausalLM(spec)
    if not labels:
        raise PlanError("task.labels: the data has no labels. Name them in the order of the teacher's outputs.")
    match spec:
        case TextClassificationSpec():
            return TextClassification(spec, labels)
        case ImageClassificationSpec():
            return ImageClassification(spec, labels)
        case _:
            assert_never(spec)
