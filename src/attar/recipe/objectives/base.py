"""What every objective's spec says, as plain data: signals needed, a value per row or per batch, memory."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from attar.recipe.base import NonNegative, Rate, Spec
from attar.recipe.objectives.schedule import TemperatureSchedule, WeightSchedule

Form = Literal["row", "batch"]
Memory = Literal[
    "rows_x_classes", "rows_x_hidden", "tokens_x_hidden", "rows_x_maps", "rows_x_tokens_squared", "rows_squared",
    "rows_cubed",
]  # fmt: skip
Weight = NonNegative | WeightSchedule
Temperature = Rate | TemperatureSchedule
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]


class ObjectiveSpec(Spec):
    """What all objectives share. `weight` multiplies the term in the sum."""

    signals: ClassVar[frozenset[str]] = frozenset({"logits"})
    form: ClassVar[Form] = "row"
    memory: ClassVar[Memory] = "rows_x_classes"
    needs_labels: ClassVar[bool] = False

    weight: Weight = Field(
        default=1.0, description="Factor of this term in the sum: a number, or one that moves (start, end)."
    )


class TemperedSpec(ObjectiveSpec):
    """What objectives with a temperature share. The reduction tempers both sides and makes up for it."""

    temperature: Temperature = Field(
        default=1.0, description="Logits of both sides are divided by this: a number, or one that moves (start, end)."
    )
