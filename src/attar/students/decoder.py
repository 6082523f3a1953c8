"""A causal language model of the LLaMA families in its parts: asked for its last states, compared with another.

No logits of all tokens are ever made: a head projects a few rows at a time. Only tokens that the mask keeps count.

Shape letters: N rows, T tokens, R kept tokens of a batch, L layers, D width, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from attar.errors import PlanError
from attar.heads import body_states, head_of
from attar.logits import Head, Projection
from attar.plan.cuts import DECODERS

Batch = Mapping[str, Tensor]
"""`input_ids` int64 [N, T], and `attention_mask` [N, T] where some of them are padding."""

_LOGITS_A_BLOCK = 1 << 23


def is_decoder(model: nn.Module | None) -> bool:
    """Whether a model is a causal language model that can be cut: of a known family, and with its head."""
    return (
        isinstance(model, PreTrainedModel)
        and model.config.model_type in DECODERS
        and model.get_output_embeddings() is not None
    )


def decoder_of(model: nn.Module | None) -> PreTrainedModel:
    """The model as what it must be here. Raises PlanError where it is no causal language model that can be cut."""
    if not is_decoder(model):
        family = getattr(getattr(model, "config", None), "model_type", None)
        got = "no model" if model is None else f"{type(model).__name__}{f' ({family})' if family else ''}"
        raise PlanError(
            f"student.kind: from_teacher cuts causal language models of the families {', '.join(DECODERS)}, with their "
            f"heads; got {got}. Use from_config or pretrained."
        )
    return cast("PreTrainedModel", model)


def body_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers, in order."""
    return cast("nn.ModuleList", cast("PreTrainedModel", model).base_model.layers)


def head_weight(model: nn.Module) -> Tensor:
    """The head [V, D], which is the embeddings where the two are tied; these families have no bias, scale or cap."""
    return head_of(model).weight


def kept_tokens(batch: Batch) -> Tensor:
    """Which tokens count, bool [N, T]."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def last_states(model: nn.Module, batch: Batch) -> Tensor:
    """Hidden states after the final norm of the tokens that count, [R, D]. Gradients and mode are the caller's."""
    device = head_weight(model).device
    inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask") if name in batch}
    states, _ = body_states(model, inputs)
    return states[kept_tokens(inputs)]


@contextmanager
def only_asked(model: nn.Module) -> Generator[None]:
    """Within the block the model is in eval mode and nothing has a gradient; its mode comes back, whatever happens."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


class Skipped(nn.Module):
    """In a layer's place: hands on what came in."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """What came in."""
        return hidden_states


class Given(nn.Module):
    """In a layer's place: hands on a state that is known already, whatever came in."""

    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self._state = state

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """The state that is known."""
        return self._state


@contextmanager
def layers_replaced(model: nn.Module, others: Mapping[int, nn.Module]) -> Generator[None]:
    """Within the block other modules stand in place of some layers (0 is the first), which are back afterwards."""
    layers = body_layers(model)
    before = {index: layers[index] for index in others}
    try:
        for index, module in others.items():
            layers[index] = module
        yield
    finally:
        for index, module in before.items():
            layers[index] = module


def skipping(layers: Iterable[int]) -> dict[int, nn.Module]:
    """Replacements that take layers out."""
    return {layer: Skipped() for layer in layers}


def summed_kl(teacher: Projection, others: Sequence[Projection]) -> list[float]:
    """Sum over rows of KL(teacher || other), nats, of each of the others; the same as `forward_kl`.

    All [R, V], projected a block of rows at a time, the teacher's once for all of the others.
    """
    rows = max(1, _LOGITS_A_BLOCK // teacher.width)
    head, heads = Head.of(teacher), [Head.of(other) for other in others]
    sums = [0.0] * len(others)
    for start in range(0, len(teacher), rows):
        block = slice(start, start + rows)
        target = head.block(block).log_softmax(-1)
        for index, other in enumerate(heads):
            ours = other.block(block).log_softmax(-1)
            cells = functional.kl_div(ours, target, reduction="none", log_target=True)
            sums[index] += float(cells.sum(-1).double().sum())
    return sums


def mean_kl(
    teacher: nn.Module, student: nn.Module, batches: Sequence[Batch], tokens: Sequence[int] | None = None
) -> float:
    """Mean KL(teacher || student) a token of the batches, nats. Both have one vocabulary.

    `tokens`: the answers are compared among these alone, each side's distribution over them (None: among all).
    """
    total, count = 0.0, 0
    with only_asked(teacher), only_asked(student):
        weights = [head_weight(model) for model in (teacher, student)]
        if tokens is not None:
            weights = [weight[list(tokens)] for weight in weights]
        for batch in batches:
            theirs, ours = (
                Projection(last_states(model, batch), weight)
                for model, weight in zip((teacher, student), weights, strict=True)
            )
            total += summed_kl(theirs, [ours])[0]
            count += len(theirs)
    return total / max(count, 1)


def kept_mass(model: nn.Module, batches: Sequence[Batch], tokens: Sequence[int]) -> float:
    """Mean probability, 0..1, that a model gives to these tokens together, over the tokens of the batches."""
    total, count = 0.0, 0
    with only_asked(model):
        weight = head_weight(model)
        rows = max(1, _LOGITS_A_BLOCK // len(weight))
        index = torch.tensor(list(tokens), device=weight.device)
        for batch in batches:
            states = last_states(model, batch)
            head = Head.of(Projection(states, weight))
            for start in range(0, len(states), rows):
                chances = head.block(slice(start, start + rows)).softmax(-1)
                total += float(chances[:, index].sum(-1).double().sum())
            count += len(states)
    return total / max(count, 1)
