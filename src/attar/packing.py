"""Batches of language models read without their padding: sequences end to end, each attending to itself alone.

A padded batch comes in and padded states go out; between them a model reads one row with the tokens of all sequences,
whose positions start anew at each. Attention is asked sequence by sequence, so no mask of all by all is made, and no
work is done on padding or between sequences. What tells one sequence from the next reaches attention as a keyword, the
way of Transformers' own `cu_seq_lens`; a model that does not hand it on is found by `verify_packing`.

Shape letters: N sequences, T tokens of the longest, S tokens of all, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from attar.errors import PlanError

ATTENTION = "attar_packed"
"""What Transformers knows our attention by; on padded batches it is its `sdpa`."""
_PLAIN = "sdpa"
_LENGTHS = "packed_lengths"
_SHORT = 512
_HAS_AMX = bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False))
"""Such a CPU multiplies in bf16 faster than this could win. Older versions of torch do not tell."""
_longest: ContextVar[int | None] = ContextVar("longest", default=None)
"""Tokens of the longest sequence of the packed batch that is being read."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a padded batch are: `places` int64 [S] among its N x T, and how many each sequence has."""

    places: Tensor
    lengths: tuple[int, ...]
    shape: tuple[int, int]

    def pack(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the model reads: `inputs` without padding, [1, S], positions, and the sequences' lengths."""
        flat = {
            name: value.flatten()[self.places][None]
            for name, value in inputs.items()
            if name != "attention_mask" and tuple(value.shape) == self.shape
        }
        if "position_ids" not in flat:
            mask = inputs["attention_mask"].bool()
            flat["position_ids"] = (mask.long().cumsum(1) - 1).flatten()[self.places][None]
        return {**inputs, **flat, "attention_mask": None, _LENGTHS: self.lengths}

    def unpack(self, values: Tensor) -> Tensor:
        """[1, S, D] as [N, T, D], zero where there is padding."""
        rows, tokens = self.shape
        full = values.new_zeros(rows * tokens, values.shape[-1])
        return full.index_copy(0, self.places, values[0]).view(rows, tokens, -1)

    @contextmanager
    def reading(self) -> Generator[None]:
        """Around the model's forward pass: attention takes care of the borders, so it needs no mask."""
        token = _longest.set(max(self.lengths))
        try:
            yield
        finally:
            _longest.reset(token)


def layout_of(config: Any, inputs: Mapping[str, Tensor]) -> Layout | None:
    """How a batch is packed; None where its model reads it as it is: it is not in `packed`, or there is no padding."""
    mask = inputs.get("attention_mask")
    if getattr(config, "_attn_implementation", None) != ATTENTION or mask is None or mask.dim() != 2:
        return None
    if tuple(mask.shape) != tuple(inputs["input_ids"].shape):
        return None
    real = mask.bool()
    lengths = tuple(length for length in real.sum(1).tolist() if length)
    if sum(lengths) in (0, mask.numel()):
        return None
    rows, tokens = mask.shape
    return Layout(real.flatten().nonzero().squeeze(1), lengths, (rows, tokens))


@contextmanager
def packed(models: Iterable[Any]) -> Generator[None]:
    """Let these models of Transformers (without wrappers) read batches packed inside the block; see `layout_of`.

    On batches without padding, and in generation, they answer as before. The backward pass belongs inside, too, where
    activations are made again in it. Raises PlanError where a model's attention cannot be exchanged.
    """
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, _mask)
    changed: list[Any] = []
    try:
        for model in models:
            if (refused := _refusal(model)) is not None:
                raise PlanError(refused)
            model.set_attn_implementation(ATTENTION)
            changed.append(model)
        yield
    finally:
        for model in changed:
            model.set_attn_implementation(_PLAIN)


def _refusal(model: Any) -> str | None:
    """Why a model's attention cannot be exchanged; None where it can."""
    now = model.config._attn_implementation
    if now == _PLAIN and model._can_set_attn_implementation():
        return None
    return unpackable(model, f'its attention is "{now}", and only "{_PLAIN}" of Transformers\' own is known to pack')


def unpackable(model: Any, why: str) -> str:
    """The message for a model that does not read packed batches."""
    name = f"{type(model).__name__} ({model.config.model_type})"
    return f"training.packing: {name} cannot read packed batches: {why}. Use packing: padded, or auto."


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_lengths: tuple[int, ...] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Transformers' `sdpa`, sequence by sequence where they are packed. Query, key and value are [1, H, S, D / H].

    On a CPU float32 takes the place of bf16 for short sequences: torch's kernel is as fast forwards, and up to four
    times as fast backwards.
    """
    computed = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    longest = max(packed_lengths or (query.shape[2],))
    if query.device.type == "cpu" and computed == torch.bfloat16 and longest <= _SHORT and not _HAS_AMX:
        with torch.autocast("cpu", enabled=False):
            query, key, value = query.float(), key.float(), value.float()
            return _by_sequence(module, query, key, value, attention_mask, packed_lengths, options).to(computed), None
    return _by_sequence(module, query, key, value, attention_mask, packed_lengths, options), None


def _by_sequence(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    lengths: tuple[int, ...] | None,
    options: Mapping[str, Any],
) -> Tensor:
    """What each token sees of its own sequence, [N, S, H, D / H]."""
    if lengths is None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0]
    parts = [side.split(lengths, 2) for side in (query, key, value)]
    answers: list[Tensor] = []
    start = 0
    for asking, asked, told in zip(*parts, strict=True):
        stop = start + asking.shape[2]
        own = None if mask is None else mask[..., start:stop, start:stop]
        answers.append(sdpa_attention_forward(module, asking, asked, told, own, **options)[0])
        start = stop
    return torch.cat(answers, 1)


def _mask(*, use_vmap: bool = False, local_size: int | None = None, **options: Any) -> Tensor | None:
    """None for packed sequences that attend to all before; Transformers' mask where they look only so far back."""
    longest = _longest.get()
    if longest is not None and not use_vmap and (local_size is None or longest <= local_size):
        return None
    return sdpa_mask(use_vmap=use_vmap, local_size=local_size, **options)
