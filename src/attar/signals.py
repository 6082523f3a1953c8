"""What a teacher or a student says about a batch, and how to ask a model for it.

Shape letters: N rows, T tokens (or pixels of a feature map), D width of a hidden state, C classes, H x W pixels, K
listed tokens, S drawn ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from attar.errors import TeacherError, TrainingError
from attar.heads import body_states, project
from attar.hooks import AttentionKey, ask_with_taps, find_taps, no_taps
from attar.known import Known
from attar.logits import Logits
from attar.mixture import Told, dense, in_tokens_of

Pool = Literal["mean", "first", "none", "map"]


class HiddenKey(NamedTuple):
    """One hidden state: its layer (0 is the embeddings' output, negative counts from the end) and its pooling."""

    layer: int
    pool: Pool


@dataclass(frozen=True)
class Wanted:
    """Which signals to ask for."""

    logits: bool = True
    hidden: tuple[HiddenKey, ...] = ()
    attention: tuple[AttentionKey, ...] = ()

    @property
    def by_token(self) -> bool:
        """Whether tokens are compared one by one, so that both sides need the same ones."""
        return bool(self.attention) or any(key.pool == "none" for key in self.hidden)


class Listed(NamedTuple):
    """What a teacher says of some tokens, and of all the others together."""

    log_probs: Tensor
    """[N, K], over the whole vocabulary: -inf at padding and where the probability is 0."""
    token_ids: Tensor
    """int64 [N, K], distinct in a row; -1 is padding."""
    tail: Tensor
    """[N]: log-probability of all other tokens together, -inf where none is left."""


class Sampled(NamedTuple):
    """Tokens drawn for each row, with what an unbiased estimate needs."""

    log_probs: Tensor
    """[N, S]: the teacher's log-probabilities of the drawn tokens."""
    token_ids: Tensor
    """int64 [N, S]; a token that was drawn twice stands there twice, and -1 where rounding drew what p excludes."""
    weights: Tensor
    """[N, S]: p / (S r)."""


Few = Listed | Sampled
"""A few tokens a row in the place of logits."""


@dataclass
class Signals:
    """Signals of one batch. `hidden` values are [N, D]; where `pool` is "none" [N, T, D], where it is "map" [N, D, H,
    W]. `attention` values are queries, keys or values [N, T, D], as their projections give them.

    `mask` [N, T], for what has tokens: which of them count; None: all of them, the same number in each row (pixels of
    an image).
    """

    logits: Told | None = None
    hidden: dict[HiddenKey, Tensor] = field(default_factory=dict[HiddenKey, Tensor])
    mask: Tensor | None = None
    attention: dict[AttentionKey, Tensor] = field(default_factory=dict[AttentionKey, Tensor])
    few: Few | None = None
    """In the place of `logits`, where these were stored token by token; at the temperature of the store."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Signals:
        """From fields by name, of which `few` may be a dict: what goes through a data loader."""
        few = fields.get("few")
        if isinstance(few, Mapping):
            tensors = cast("Mapping[str, Tensor]", few)
            few = Sampled(**tensors) if "weights" in tensors else Listed(**tensors)
        given: dict[str, Any] = {**fields, "few": few}
        return cls(**given)

    def in_tokens_of(self, known: Known) -> Signals:
        """The same with logits over a student's tokens."""
        return replace(self, logits=None if self.logits is None else in_tokens_of(self.logits, known))

    @property
    def dense_logits(self) -> Tensor | None:
        """The logits as one tensor [N, C], projected if they were not."""
        return None if self.logits is None else dense(self.logits)


@dataclass(frozen=True)
class Inside:
    """What a model shows of its inside: hidden states 0 (the embeddings' output) to L, and attention layers from 1."""

    widths: Mapping[int, int] = field(default_factory=dict[int, int])
    """Width of each hidden state; of a feature map its channels."""
    maps: Mapping[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    """Height and width of those that are feature maps."""
    attention: Mapping[AttentionKey, int] = field(default_factory=dict[AttentionKey, int])
    """Width of each projection."""
    no_attention: str = "nothing is known of its attention."
    """Why `attention` is empty, where it is."""

    @property
    def layers(self) -> int:
        """L."""
        return max(self.widths, default=0)

    @property
    def attention_layers(self) -> int:
        """Number of the last attention layer."""
        return max((key.layer for key in self.attention), default=0)


NOTHING = Inside()
"""Of a model that shows nothing, or of which nothing need be known."""


class Speaker(nn.Module, ABC):
    """A teacher that is more than a model, and answers a batch in its own way."""

    @abstractmethod
    def say(self, inputs: dict[str, Tensor], wanted: Wanted, positions: Tensor | None = None) -> Signals:
        """What `ask` gives."""


def ask(model: nn.Module, inputs: dict[str, Tensor], wanted: Wanted, positions: Tensor | None = None) -> Signals:
    """Run `model` on one collated batch and keep what is wanted. Gradients and train/eval mode are the caller's.

    `positions` int64 [R], for language models: the logits are those of these places among the N x T tokens, as a
    projection [R, V] of which nothing is computed yet. Without it Transformers models answer with `.logits` and
    `.hidden_states`; a bare module answers with logits [N, C] (or an object with `.logits`) and offers no hidden states
    unless it accepts `output_hidden_states`. Attention is read by
    hooks (see `ask_with_taps`).
    """
    if isinstance(model, Speaker):
        return model.say(inputs, wanted, positions)
    if positions is not None:
        return _ask_tokens(model, inputs, wanted, positions)
    extra: dict[str, Any] = {"output_hidden_states": True} if wanted.hidden else {}
    attention: dict[AttentionKey, Tensor] = {}
    try:
        if wanted.attention:
            answer, attention = ask_with_taps(model, {**inputs, **extra}, wanted.attention)
        else:
            answer = model(**inputs, **extra)
    except TypeError as error:
        if not wanted.hidden or "output_hidden_states" not in str(error):
            raise
        raise TeacherError(
            f"{type(model).__name__} does not offer hidden states (its forward takes no `output_hidden_states`). "
            "Drop the objectives that compare layers, or hand over a model that returns `.hidden_states`."
        ) from error
    logits = answer if isinstance(answer, Tensor) else answer.logits
    states = cast("tuple[Tensor, ...] | None", getattr(answer, "hidden_states", None))
    if wanted.hidden and states is None:
        raise TeacherError(
            f"{type(model).__name__} returned no hidden_states. Drop the objectives that compare layers."
        )
    return _kept(logits if wanted.logits else None, states, attention, inputs.get("attention_mask"), wanted)


def _ask_tokens(model: nn.Module, inputs: dict[str, Tensor], wanted: Wanted, positions: Tensor) -> Signals:
    attention: dict[AttentionKey, Tensor] = {}
    if wanted.attention:
        (last, states), attention = ask_with_taps(
            model, inputs, wanted.attention,
            lambda whole, given: body_states(whole, given, hidden=bool(wanted.hidden), pack=False),
        )  # fmt: skip
    else:
        last, states = body_states(model, inputs, hidden=bool(wanted.hidden))
    logits = project(model, last.flatten(0, 1)[positions]) if wanted.logits else None
    return _kept(logits, states, attention, inputs.get("attention_mask"), wanted)


def _kept(
    logits: Logits | None,
    states: tuple[Tensor, ...] | None,
    attention: dict[AttentionKey, Tensor],
    mask: Tensor | None,
    wanted: Wanted,
) -> Signals:
    hidden = {key: pooled(cast("tuple[Tensor, ...]", states)[key.layer], mask, key.pool) for key in wanted.hidden}
    by_token = [*(value for key, value in hidden.items() if key.pool == "none"), *attention.values()]
    return Signals(
        logits=logits,
        hidden=hidden,
        mask=_token_mask(by_token[0], mask) if by_token else None,
        attention=attention,
    )


def pooled(state: Tensor, mask: Tensor | None, pool: Pool) -> Tensor:
    """One vector a row from a hidden state [N, T, D] or a feature map [N, D, H, W]; `none` gives [N, T, D].

    `map` gives the feature map. Raises TeacherError where the state is none.
    """
    if pool == "map":
        if state.dim() != 4:
            raise TeacherError(f"a hidden state {list(state.shape)} is no feature map [rows, channels, height, width].")
        return state
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


def look_inside(model: nn.Module, inputs: dict[str, Tensor]) -> Inside:
    """What `model` shows of its inside on one batch, found by asking it.

    Raises what `model` raises when it cannot take `inputs` at all.
    """
    with torch.inference_mode():
        states = _states(model, inputs)
        widths, reason = _attention(model, inputs)
    return Inside(
        widths={i: state.shape[1] if state.dim() == 4 else state.shape[-1] for i, state in enumerate(states)},
        maps={i: (state.shape[2], state.shape[3]) for i, state in enumerate(states) if state.dim() == 4},
        attention=widths,
        no_attention=reason,
    )


def _states(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    try:
        answer = model(**inputs, output_hidden_states=True)
    except TypeError as error:
        if "output_hidden_states" not in str(error):
            raise
        return ()
    return cast("tuple[Tensor, ...] | None", getattr(answer, "hidden_states", None)) or ()


def _attention(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[dict[AttentionKey, int], str]:
    """Width of every projection; or none, and why."""
    keys = list(find_taps(model))
    if not keys:
        return {}, no_taps(model)
    try:
        _, found = ask_with_taps(model, inputs, keys)
    except TrainingError as error:
        return {}, str(error)
    return {key: value.shape[-1] for key, value in found.items()}, ""
