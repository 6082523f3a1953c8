"""What a row of the law table says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """An objective as a function of both sides' rows, and the laws that it declares."""

    kind: str
    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    broken: dict[str, str] = field(default_factory=dict)
    """Law (an option of check_objective) -> why it does not hold."""
    width: int = 7
    power: int = 2
    """Of the temperature, that the reduction multiplies by."""

    def declares(self) -> dict[str, bool | int | None]:
        broken = {law: None if law == "temperature_power" else False for law in self.broken}
        return {"width": self.width, "temperature_power": self.power} | broken


NO_TEMPERATURE = "labels and hidden states know no temperature"
NUMBER = "a regression's number is not a logit"
