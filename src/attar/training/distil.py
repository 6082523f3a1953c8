"""The module that is trained: student, objectives, and the teacher beside them. DDP wraps all of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.objectives.terms import Terms
from attar.signals import Signals, ask
from attar.training.rows import LiveTeacher


class Distil(nn.Module):
    """Student, projectors and loss in one forward, so that hooks fire and gradients are gathered as one.

    The live teacher stands beside: it is no part of the state, is never saved or optimised, gets no gradient, and
    answers in eval mode whatever `train()` was called on.
    """

    accepts_loss_kwargs = True

    def __init__(self, student: nn.Module, terms: Terms, live: LiveTeacher | None = None) -> None:
        super().__init__()
        self.student = student
        self.terms = terms
        self._live = live
        self._wanted = terms.wanted_student
        if live is not None:
            live.model.eval().requires_grad_(False)

    def forward(
        self,
        inputs: dict[str, Tensor],
        labels: Tensor | None,
        counts: dict[str, float],
        signals: dict[str, Any] | None = None,
        view: dict[str, Tensor] | None = None,
        partner_labels: Tensor | None = None,
        share: float = 1.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch, divided by the whole step's `counts`, and each term by itself, detached.

        `inputs`: the student's view; `signals`: the fields of `Signals`, as stored; `view`: the live teacher's view.
        With mixup the terms are evaluated with the labels of either partner and weighted by `share` and its rest: for
        cross-entropy that is the soft target, and what does not read labels comes out as it was. The partners are a
        permutation of the batch, so `counts` are right for both.
        """
        student = ask(self.student, inputs, self._wanted)
        teacher = self._teacher(signals, view)
        loss = self.terms(student, teacher, labels, counts)
        if partner_labels is None or not self.terms.needs_labels:
            return loss.total, loss.terms
        other = self.terms(student, teacher, partner_labels, counts)
        rest = 1.0 - share
        terms = {name: share * value + rest * other.terms[name] for name, value in loss.terms.items()}
        return share * loss.total + rest * other.total, terms

    def _teacher(self, signals: dict[str, Any] | None, view: dict[str, Tensor] | None) -> Signals | None:
        if signals is not None:
            return Signals(**signals)
        if view is None or self._live is None:
            return None
        model = self._live.model
        if any(part.training for part in model.modules()):
            model.eval()
        with torch.no_grad():
            return ask(model, view, self._live.wanted)


@contextmanager
def full_precision_heads(models: list[nn.Module], outputs: int) -> Generator[None]:
    """Let the heads write float32 under autocast: rounded to bf16, logits spoil the gradient of a small KL.

    A model's head is its last `nn.Linear` with `outputs` outputs, if there is one. For the time of the block only.
    """
    with ExitStack() as undo:
        for model in models:
            linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
            for head in [part for part in linear if part.out_features == outputs][-1:]:
                head.forward = _float32(head)
                undo.callback(head.__dict__.pop, "forward")
        yield


def _float32(layer: nn.Linear) -> Any:
    def forward(states: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            return functional.linear(states.float(), layer.weight, layer.bias)

    return forward
