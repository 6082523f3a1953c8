"""Objectives on the data's labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from attar.recipe.objectives.base import BelowOne, ObjectiveSpec


class HardLabelsSpec(ObjectiveSpec):
    """Cross-entropy with the data's labels (binary cross-entropy, or squared error, by the task's `problem`)."""

    signals: ClassVar[frozenset[str]] = frozenset()
    needs_labels: ClassVar[bool] = True

    kind: Literal["hard_labels"]
    label_smoothing: BelowOne = Field(default=0.0, description="Share spread over all labels.")
