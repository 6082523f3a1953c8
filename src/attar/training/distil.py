"""The module that is trained: student and objectives, with the teacher beside them. DDP or FSDP wrap all of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attar.objectives.terms import Terms
from attar.signals import Signals, Wanted, ask


class Distil(nn.Module):
    """Student, projectors and loss in one forward, so that hooks fire and sharded parameters are gathered.

    The live teacher is kept out of the module's state: it is not saved, not optimised, and stays in eval mode.
    """

    def __init__(self, student: nn.Module, terms: Terms, teacher: nn.Module | None, wanted_teacher: Wanted) -> None:
        super().__init__()
        self.student = student
        self.terms = terms
        self._beside = [] if teacher is None else [teacher.eval().requires_grad_(False)]
        self._wanted_teacher = wanted_teacher

    def forward(
        self,
        student: dict[str, Tensor],
        labels: Tensor,
        counts: dict[str, float],
        signals: dict[str, Any] | None = None,
        teacher: dict[str, Tensor] | None = None,
        partner_labels: Tensor | None = None,
        share: float = 1.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch divided by the whole step's `counts`, and each term by itself, detached."""
        said = ask(self.student, student, self.terms.wanted_student)
        told = self._told(signals, teacher)
        loss = self.terms(said, told, labels, counts)
        if partner_labels is None or not self.terms.needs_labels:
            return loss.total, loss.terms
        other = self.terms(said, told, partner_labels, counts)
        terms = {name: share * value + (1 - share) * other.terms[name] for name, value in loss.terms.items()}
        return share * loss.total + (1 - share) * other.total, terms

    def _told(self, signals: dict[str, Any] | None, teacher: dict[str, Tensor] | None) -> Signals | None:
        if signals is not None:
            return Signals(**signals)
        if teacher is None:
            return None
        model = self._beside[0]
        with torch.no_grad():
            return ask(model.eval(), teacher, self._wanted_teacher)

    def place_teacher(self, device: torch.device) -> None:
        """Put the live teacher where the student is."""
        for model in self._beside:
            model.to(device)
