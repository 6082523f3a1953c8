"""What a teacher or a student says about a batch, and how to ask a model for it.

Shape letters: N rows, T tokens (or pixels of a feature map), D width of a hidden state, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from attar.errors import TeacherError

Pool = Literal["mean", "first", "none"]


class HiddenKey(NamedTuple):
    """One hidden state: its layer (0 is the embeddings' output, negative counts from the end) and its pooling."""

    layer: int
    pool: Pool


@dataclass(frozen=True)
class Wanted:
    """Which signals to ask for."""

    logits: bool = True
    hidden: tuple[HiddenKey, ...] = ()


@dataclass
class Signals:
    """Signals of one batch. `hidden` values are [N, D], or [N, T, D] where `pool` is "none".

    `mask` [N, T], for the latter: which tokens count; None: all of them, the same number in each row (pixels of an
    image).
    """

    logits: Tensor | None = None
    hidden: dict[HiddenKey, Tensor] = field(default_factory=dict[HiddenKey, Tensor])
    mask: Tensor | None = None


def ask(model: nn.Module, inputs: dict[str, Tensor], wanted: Wanted) -> Signals:
    """Run `model` on one collated batch and keep what is wanted. Gradients and train/eval mode are the caller's.

    Transformers models answer with `.logits` and `.hidden_states`; a bare module answers with logits [N, C] (or an
    object with `.logits`) and offers no hidden states unless it accepts `output_hidden_states`.
    """
    extra: dict[str, Any] = {"output_hidden_states": True} if wanted.hidden else {}
    try:
        answer = model(**inputs, **extra)
    except TypeError as error:
        if not wanted.hidden or "output_hidden_states" not in str(error):
            raise
        raise TeacherError(
            f"{type(model).__name__} does not offer hidden states (its forward takes no `output_hidden_states`). "
            "Drop the `hidden` objective, or hand over a model that returns `.hidden_states`."
        ) from error
    logits = answer if isinstance(answer, Tensor) else answer.logits
    mask = inputs.get("attention_mask")
    states = cast("tuple[Tensor, ...] | None", getattr(answer, "hidden_states", None))
    if wanted.hidden and states is None:
        raise TeacherError(f"{type(model).__name__} returned no hidden_states. Drop the `hidden` objective.")
    hidden = {key: pooled(cast("tuple[Tensor, ...]", states)[key.layer], mask, key.pool) for key in wanted.hidden}
    unpooled = next((value for key, value in hidden.items() if key.pool == "none"), None)
    return Signals(
        logits=logits if wanted.logits else None,
        hidden=hidden,
        mask=None if unpooled is None else _token_mask(unpooled, mask),
    )


def pooled(state: Tensor, mask: Tensor | None, pool: Pool) -> Tensor:
    """One vector a row from a hidden state [N, T, D] or a feature map [N, D, H, W]; `none` gives [N, T, D]."""
    if state.dim() == 4:
        state, mask = state.flatten(2).transpose(1, 2), None
    match pool:
        case "none":
            return state
        case "first":
            return state[:, 0]
        case "mean":
            if mask is None or mask.shape != state.shape[:2]:
                return state.mean(1)
            weight = mask.to(state.dtype).unsqueeze(-1)
            return (state * weight).sum(1) / weight.sum(1).clamp(min=1)


def _token_mask(state: Tensor, mask: Tensor | None) -> Tensor | None:
    return mask.bool() if mask is not None and mask.shape == state.shape[:2] else None


def hidden_widths(model: nn.Module, inputs: dict[str, Tensor]) -> dict[int, int]:
    """Width of each hidden state 0..L that `model` offers on one batch, found by asking it; empty: it offers none.

    Raises what `model` raises when it cannot take `inputs` at all.
    """
    with torch.inference_mode():
        try:
            answer = model(**inputs, output_hidden_states=True)
        except TypeError as error:
            if "output_hidden_states" not in str(error):
                raise
            return {}
    states = cast("tuple[Tensor, ...] | None", getattr(answer, "hidden_states", None)) or ()
    return {i: state.shape[1] if state.dim() == 4 else state.shape[-1] for i, state in enumerate(states)}
