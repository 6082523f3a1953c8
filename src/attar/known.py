"""Which of a teacher's outputs its student has, where the student has fewer tokens or numbers them otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_NONE = torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class Known:
    """Which of a teacher's outputs a student has, and what becomes of the others. V_s of V, and L others."""

    outputs: Tensor
    """int64 [V_s]: the teacher's number of each, in the student's order."""
    others: Tensor = _NONE
    """int64 [L]: the teacher's numbers of tokens that the student lacks and spells in several of its own."""
    starts: Tensor = _NONE
    """int64 [L]: the first of these, by the student's number."""

    def to(self, device: torch.device | str) -> Known:
        """The same on a device."""
        return Known(self.outputs.to(device), self.others.to(device), self.starts.to(device))
