"""The record of an objective that was handed over in Python."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attar.recipe.objectives.base import TemperedSpec


class PythonSpec(TemperedSpec):
    """The record of a function handed over to `attar.distill_models`; it cannot be written by hand."""

    kind: Literal["python"]
    name: str = Field(description="The function's name, or the one given to it.")
    code: str = Field(description="Hash of its code and of what it reads.")
    temperature_power: int = Field(default=2, description="The term is multiplied by this power of the temperature.")
    labels: bool = Field(default=False, description="Whether it reads labels, and so sees labelled rows only.")
