"""A weight or temperature that moves as training goes on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from attar.recipe.base import NonNegative, Rate, Spec


class ScheduleSpec(Spec):
    """A number that moves from `start` to `end` over the first part of the training, and stays there."""

    start: NonNegative = Field(description="Value in the first step.")
    end: NonNegative = Field(description="Value from `until` on.")
    shape: Literal["linear", "cosine"] = Field(default="linear", description="A straight line, or half a cosine.")
    until: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=1.0, description="Share of the training after which `end` is reached."
    )


class WeightSchedule(ScheduleSpec):
    """A weight that moves; 0 for a time is fine."""


class TemperatureSchedule(ScheduleSpec):
    """A temperature that moves."""

    start: Rate = Field(description="Value in the first step.")
    end: Rate = Field(description="Value from `until` on.")


def largest(value: float | ScheduleSpec) -> float:
    """The largest that a number becomes over the training."""
    return max(value.start, value.end) if isinstance(value, ScheduleSpec) else value


def in_words(value: float | ScheduleSpec) -> str:
    """`2`, or `4 to 1 (cosine, over the first 50 %)`."""
    if not isinstance(value, ScheduleSpec):
        return f"{value:g}"
    over = "" if value.until == 1.0 else f", over the first {100 * value.until:g} %"
    return f"{value.start:g} to {value.end:g} ({value.shape}{over})"
