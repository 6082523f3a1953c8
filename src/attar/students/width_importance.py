"""Which heads, feed-forward neurons and channels of a causal language model matter, by how large they are in use.

Activation-based importance as in Minitron (arXiv:2407.14679) and its authors' code: the mean magnitude over a row's
tokens, then the L2 norm over rows. Heads and neurons are read where they enter the layer's output projection, channels
of the residual stream where they leave a norm.

Shape letters: N rows, T tokens, L layers, A query heads, I feed-forward neurons, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from attar.errors import PlanError
from attar.students.decoder import Batch, body_layers, kept_tokens, last_states, only_asked

Part = Literal["heads", "neurons", "channels"]


@dataclass(frozen=True)
class WidthScores:
    """How much each part of a model matters, the greater the more; parts of one layer are comparable. float64."""

    heads: Tensor
    """[L, A]: the L2 norm over the values that a query head gathers."""
    neurons: Tensor
    """[L, I]."""
    channels: Tensor
    """[D]: the sum over all norms."""


def score_widths(model: nn.Module, batches: Sequence[Batch]) -> WidthScores:
    """Scores from one forward pass a batch; the model is left as it was.

    Raises PlanError where no batch has a token that counts.
    """
    if not any(bool(kept_tokens(batch).any()) for batch in batches):
        raise PlanError(
            "student: heads, neurons and channels are chosen on training rows, but none were given. Hand over batches "
            "of token ids, or leave these sizes as the teacher's."
        )
    meters = _meters(model)
    with only_asked(model):
        for batch in batches:
            _measure(model, batch, meters)
    found: dict[Part, list[Tensor]] = {"heads": [], "neurons": [], "channels": []}
    for meter in meters:
        found[meter.part].append(meter.total.sqrt())
    head_size = int(cast("Any", body_layers(model)[0]).self_attn.head_dim)
    return WidthScores(
        heads=torch.stack(found["heads"]).unflatten(-1, (-1, head_size)).norm(dim=-1),
        neurons=torch.stack(found["neurons"]),
        channels=torch.stack(found["channels"]).sum(0),
    )


class _Meter:
    """Sums up, over rows, the squared mean magnitude of what enters or leaves one module."""

    def __init__(self, part: Part, module: nn.Module) -> None:
        self.part: Part = part
        self.module = module
        self.total = torch.zeros(())

    def watch(self, kept: Tensor) -> RemovableHandle:
        """Hook on until the handle is removed; `kept` [N, T] are the tokens that count."""
        weight = kept.double() / kept.sum(-1, keepdim=True).clamp(min=1)

        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            values = output if self.part == "channels" else cast("Tensor", args[0])
            means = torch.einsum("nt,ntd->nd", weight, values.detach().abs().double())
            self.total = self.total + means.square().sum(0)

        return self.module.register_forward_hook(hook)


def _meters(model: nn.Module) -> list[_Meter]:
    meters: list[_Meter] = []
    for layer in body_layers(model):
        parts = cast("Any", layer)
        meters += [
            _Meter("heads", parts.self_attn.o_proj),
            _Meter("neurons", parts.mlp.down_proj),
            _Meter("channels", parts.input_layernorm),
            _Meter("channels", parts.post_attention_layernorm),
        ]
    return [*meters, _Meter("channels", cast("Any", cast("PreTrainedModel", model).base_model).norm)]


def _measure(model: nn.Module, batch: Batch, meters: Sequence[_Meter]) -> None:
    handles: list[RemovableHandle] = []
    try:
        handles.extend(meter.watch(kept_tokens(batch)) for meter in meters)
        last_states(model, batch)
    finally:
        for handle in handles:
            handle.remove()
