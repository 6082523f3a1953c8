"""`report.energy`: what an estimate of energy rests on, and by which figure it becomes carbon."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from attar.recipe.base import Rate, Spec

WATTS = (2.0, 15.0)
"""Power of one busy core, from and to."""
WATTS_SOURCE = "from a laptop's 15 W over eight cores to a desktop core at full clock"


class CarbonSpec(Spec):
    """Where the electricity comes from. Nothing is assumed: no country has a default."""

    intensity: Rate = Field(description="Grams of CO2 equivalent a kilowatt-hour, as the source states them.")
    source: Annotated[str, StringConstraints(min_length=1)] = Field(description="Who says so, of which place.")
    year: Annotated[int, Field(ge=1990, le=2100)] = Field(description="Of which year.")
    pue: Annotated[float, Field(ge=1.0, le=10.0)] = Field(
        description="Power usage effectiveness of the building: 1 for a computer at home."
    )


class EnergySpec(Spec):
    """How energy is estimated where no counter can be read, and whether it is told as carbon too."""

    watts_per_core: tuple[Rate, Rate] = Field(
        default=WATTS, description=f"Power of one busy core, from and to; the default is {WATTS_SOURCE}."
    )
    carbon: CarbonSpec | None = Field(default=None, description="Absent: no carbon is told.")

    @model_validator(mode="after")
    def _from_is_below_to(self) -> Self:
        low, high = self.watts_per_core
        if low > high:
            raise ValueError(f"watts_per_core is [from, to], but {low:g} is more than {high:g}; turn them round")
        return self
