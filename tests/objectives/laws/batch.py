"""What a row of the batch objectives' law table says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from objectives.batch_laws import BatchFunction, Frozen, Invariance


@dataclass(frozen=True)
class BatchEntry:
    """A batch objective as a function of both sides' rows, and the laws that it declares."""

    kind: str
    name: str
    function: BatchFunction
    broken: dict[str, str] = field(default_factory=dict)
    """Law (an option of check_batch that is true by default) -> why it does not hold."""
    invariances: tuple[Invariance, ...] = ()
    frozen: Frozen | None = None
    """Where a part is held constant in the gradient."""
    width: int = 7
    teacher_width: int | None = None
    """None: the student's."""

    def declares(self) -> dict[str, Any]:
        declared = {"invariances": self.invariances, "frozen": self.frozen}
        return declared | {"width": self.width, "teacher_width": self.teacher_width} | dict.fromkeys(self.broken, False)
