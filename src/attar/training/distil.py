"""The module that is trained: student, objectives, and the teacher beside them. DDP wraps, FSDP2 shards all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.errors import PlanError
from attar.objectives.terms.meeting import Meeting
from attar.objectives.terms.terms import Partner, Terms
from attar.signals import Signals, ask
from attar.training.rounding import Found, Rounding
from attar.training.rows import LiveTeacher


class Distil(nn.Module):
    """Student, projectors and loss in one forward, so that hooks fire and gradients are gathered as one.

    The live teacher stands beside: it is no part of the state, is never saved or optimised, gets no gradient, and
    answers in eval mode whatever `train()` was called on.
    """

    accepts_loss_kwargs = True
    is_distributed_loading_by_transformers = False
    """Whether its weights are sharded: Transformers then neither moves nor wraps it."""

    def __init__(
        self, student: nn.Module, terms: Terms, live: LiveTeacher | None = None, rounding: Rounding | None = None
    ) -> None:
        """`rounding`: the student learns, and is judged, with these numbers."""
        super().__init__()
        self.student = student
        self.terms = terms
        self.rounding = rounding
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
        progress: float = 1.0,
        rows: Tensor | None = None,
        alone: str | None = None,
        positions: Tensor | None = None,
        view_positions: Tensor | None = None,
        meeting: dict[str, Tensor] | None = None,
        written: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch, divided by the whole step's `counts`, and each term by itself, detached.

        `inputs`: the student's view; `signals`: the fields of `Signals`, as stored; `view`: the live teacher's view;
        `progress`, `rows`, `alone` and `written`: as `Terms.forward` takes them. With mixup, terms that read labels are
        evaluated with those of either partner and weighted by `share` and its rest: for cross-entropy that is the soft
        target.
        `positions` and `view_positions` int64 [R], of language models: where among the N x T tokens of either view
        learned tokens are told; a row of the loss is one of these then, `labels` [R] are the tokens. `meeting`: the
        fields of `Meeting`, where the two views are of two tokenizers.
        """
        rounding = None if self.rounding is None or progress < self.rounding.spec.start else self.rounding
        if rounding is None:
            student = ask(self.student, inputs, self._wanted, positions)
        else:
            student = rounding.apply(self.student, lambda model: ask(model, inputs, self._wanted, positions))
        teacher = self._teacher(signals, view, view_positions)
        partner = None if partner_labels is None else Partner(partner_labels, share)
        met = None if meeting is None else Meeting(**meeting)
        loss = self.terms(
            student, teacher, labels, counts, progress=progress, rows=rows, alone=alone, partner=partner,
            written=written, meeting=met,
        )  # fmt: skip
        return loss.total, loss.terms

    def as_exported(self, student: nn.Module, act: Callable[[nn.Module], Found]) -> Found:
        """`act` on the student, with rounded numbers where it learns with them, at whatever step that begins."""
        if self.rounding is None:
            return act(student)
        with torch.no_grad():
            return self.rounding.apply(student, act)

    def kept(self, batch: Mapping[str, Any]) -> dict[str, int]:
        """What each term keeps of a micro-batch, the keywords of `forward` without `counts`."""
        met = None if batch.get("meeting") is None else Meeting(**batch["meeting"])
        labels, inputs = cast("Tensor", batch["labels"]), cast("dict[str, Tensor]", batch["inputs"])
        texts = len(next(iter(inputs.values())))
        return self.terms.kept(labels, len(labels), inputs.get("attention_mask"), met, texts=texts)

    def _teacher(
        self, signals: dict[str, Any] | None, view: dict[str, Tensor] | None, positions: Tensor | None
    ) -> Signals | None:
        if signals is not None:
            return Signals.of(signals)
        if view is None or self._live is None:
            return None
        model = self._live.model
        if any(part.training for part in model.modules()):
            model.eval()
        with torch.no_grad():
            found = ask(model, view, self._live.wanted, positions)
        return found if self._live.known is None else found.in_tokens_of(self._live.known)


def recompute_layers(model: nn.Module, on: bool = True) -> None:
    """Let each layer keep its input alone and run again in the backward pass, with the same random draws; or not.

    Raises PlanError where the model has no such layers.
    """
    core = next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)
    if core is None or not core.supports_gradient_checkpointing:
        raise PlanError(
            f"training.activation_checkpointing: {type(core or model).__name__} cannot run its layers twice. Set it to "
            "false; a smaller training.batch_size with more training.accumulate needs less memory, too."
        )
    if on:
        core.activation_checkpointing_enable({"use_reentrant": False})
    else:
        core.activation_checkpointing_disable()
