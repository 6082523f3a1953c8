"""An untrained causal language model of a teacher's class, smaller, with its configuration and its token ids."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from attar.plan.cuts import DecoderShape
from attar.students.decoder import head_weight

_BY_LAYER = ("layer_types", "no_rope_layers")


def build_decoder(
    teacher: PreTrainedModel, shape: DecoderShape, layers: Sequence[int], tokens: Sequence[int] | None = None
) -> PreTrainedModel:
    """A model of the teacher's class and these sizes, its weights drawn from torch's global generator.

    `layers` are the teacher's whose kind of attention the student's have (`shape.layers` of them); `tokens` the ids
    that it keeps, ascending (None: all). On the teacher's device, float32 (float64 of a float64 one).
    """
    config = small_config(teacher.config, shape, layers, tokens)
    config.dtype = torch.float64 if head_weight(teacher).dtype is torch.float64 else torch.float32
    student = type(teacher)(config)
    cast("nn.Module", student).to(device=head_weight(teacher).device, dtype=config.dtype)
    student.generation_config = deepcopy(teacher.generation_config)
    _renumber(student.generation_config, tokens)
    return student


def small_config(config: Any, shape: DecoderShape, layers: Sequence[int], tokens: Sequence[int] | None = None) -> Any:
    """The teacher's configuration with other sizes; what it lists layer by layer, and its special tokens, follow.

    A special token that is not kept is None.
    """
    small = deepcopy(config)
    for name in _BY_LAYER:
        if (by_layer := getattr(config, name, None)) is not None:
            setattr(small, name, [by_layer[layer] for layer in layers])
    small.num_hidden_layers = shape.layers
    small.hidden_size = shape.width
    small.num_attention_heads, small.num_key_value_heads = shape.heads, shape.key_value_heads
    small.intermediate_size = shape.intermediate
    if getattr(config, "head_dim", None) is None and shape.width != shape.heads * shape.head_size:
        small.head_dim = shape.head_size
    if tokens is not None:
        small.vocab_size = len(tokens)
        _renumber(small, tokens)
    return small


def _renumber(config: Any, tokens: Sequence[int] | None) -> None:
    """Give a configuration's special tokens (`…_token_id`, an id or a list of them) their new ids, in place."""
    if tokens is None:
        return
    new = {old: index for index, old in enumerate(tokens)}
    for name, old in list(vars(config).items()):
        if not name.endswith("_token_id"):
            continue
        if isinstance(old, list):
            setattr(config, name, [new[one] for one in cast("list[int]", old) if one in new] or None)
        elif old is not None:
            setattr(config, name, new.get(old))
