"""A teacher never learns: always in eval mode, never a gradient, batch statistics frozen, whatever holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn


class Frozen(nn.Module):
    """Holds a model and answers for it, in eval mode and without gradients.

    `train()` on this module, or on one that contains it, changes nothing; a part that somebody put back into train mode
    directly returns to eval mode at the next call. The model itself is `model`: copy from there.
    """

    def __init__(self, model: nn.Module, outputs: Sequence[int] | None = None) -> None:
        """`outputs`: positions of the task's labels among the model's logits, in order; None: as they are."""
        super().__init__()
        self.model = model.requires_grad_(False)
        self.outputs = None if outputs is None else list(outputs)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever `mode` asks for."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *args: Any, **inputs: Any) -> Any:
        """The model's own answer, its logits [N, C] in the order of the task's labels."""
        if any(part.training for part in self.model.modules()):
            self.model.eval()
        answer = self.model(*args, **inputs)
        if self.outputs is None:
            return answer
        if isinstance(answer, Tensor):
            return answer[:, self.outputs]
        answer.logits = cast("Tensor", answer.logits)[:, self.outputs]
        return answer
