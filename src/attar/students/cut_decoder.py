"""Cutting a causal language model of the LLaMA families: fewer layers, heads, neurons, channels and tokens.

What stays is copied; given real tokens, what reads an axis that was cut is refitted to them. Query heads stay with the
key and value head that serves them: whole groups go first, then as many heads of each group. A channel of the residual
stream goes out of every tensor that reads or writes it, the norms' weights included. Key and value heads, neurons and
query heads are chosen layer by layer, channels once.

Shape letters: V tokens, D width, A query heads, K key and value heads, I feed-forward neurons, L layers, S size of a
head; _s student.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.errors import PlanError
from attar.plan.cuts import DecoderShape, decoder_shape, share_heads, ungrouped
from attar.students.decoder import Batch, decoder_of
from attar.students.decoder_build import build_decoder
from attar.students.importance import best
from attar.students.refit import Site, channel_sites, inner_sites, refit
from attar.students.width_importance import WidthScores

Axis = Literal["heads", "groups", "neurons", "width", "tokens", "same"]

_LAYER = re.compile(r"^(model\.layers\.)(\d+)\.(.+)$")
_ROLES: dict[str, tuple[Axis, ...]] = {
    "self_attn.q_proj": ("heads", "width"),
    "self_attn.k_proj": ("groups", "width"),
    "self_attn.v_proj": ("groups", "width"),
    "self_attn.o_proj": ("width", "heads"),
    "self_attn.q_norm": ("same",),
    "self_attn.k_norm": ("same",),
    "mlp.gate_proj": ("neurons", "width"),
    "mlp.up_proj": ("neurons", "width"),
    "mlp.down_proj": ("width", "neurons"),
    "input_layernorm": ("width",),
    "post_attention_layernorm": ("width",),
    "model.norm": ("width",),
    "model.embed_tokens": ("tokens", "width"),
    "lm_head": ("tokens", "width"),
}
"""What the axes of each module's weight stand for; its bias has the first of them."""


@dataclass(frozen=True)
class Kept:
    """Which indices of each axis the student has, ascending; of inner axes by the teacher's layer. None: all."""

    layers: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...] | None = None
    groups: tuple[tuple[int, ...], ...] | None = None
    neurons: tuple[tuple[int, ...], ...] | None = None
    channels: tuple[int, ...] | None = None
    tokens: tuple[int, ...] | None = None


def cut_decoder(
    model: nn.Module,
    *,
    layers: Sequence[int] | None = None,
    heads: int | None = None,
    key_value_heads: int | None = None,
    intermediate: int | None = None,
    width: int | None = None,
    kept_tokens: Sequence[int] | None = None,
    scores: WidthScores | None = None,
    refit_on: Sequence[Batch] = (),
) -> PreTrainedModel:
    """A smaller model with copies of the weights that stay, in eval mode, float32 (float64 of a float64 one).

    `layers`: which stay, ascending. `heads`, `key_value_heads`, `intermediate`, `width`: how many stay, the best by
    `scores`, which are `score_widths` of this very model and needed where one of them is less than it has; of `heads`
    and `key_value_heads` the one that is absent keeps groups whole. `kept_tokens`: ids of the rows of embeddings and
    head that stay, ascending; ids of special tokens in the configurations follow. None keeps all. `refit_on`: tokens
    on which the weights that read fewer heads, neurons or channels are refitted (see `refit`); empty copies them. Tied
    embeddings stay tied. Global random state is left as it was.

    Raises PlanError where the model is of no family that can be cut, and where the sizes do not fit.
    """
    teacher = decoder_of(model)
    shape = decoder_shape(teacher.config.to_dict())
    kept = choose_parts(
        shape, layers=layers, heads=heads, key_value_heads=key_value_heads, intermediate=intermediate, width=width,
        kept_tokens=kept_tokens, scores=scores,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        student = build_decoder(teacher, shape_of(shape, kept), kept.layers, kept.tokens)
    copy_kept(teacher, student, kept, refit(teacher, refit_on, _sites(teacher, kept)) if refit_on else {})
    return student.eval()


def choose_parts(
    shape: DecoderShape,
    *,
    layers: Sequence[int] | None = None,
    heads: int | None = None,
    key_value_heads: int | None = None,
    intermediate: int | None = None,
    width: int | None = None,
    kept_tokens: Sequence[int] | None = None,
    scores: WidthScores | None = None,
) -> Kept:
    """What stays of a model of a shape; arguments as in `cut_decoder`. Raises PlanError where the sizes do not fit."""
    chosen = tuple(range(shape.layers)) if layers is None else tuple(layers)
    if not chosen or list(chosen) != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < shape.layers:
        raise PlanError(f"student.layers: {list(chosen)} must ascend, each one of 0 to {shape.layers - 1}, once.")
    groups, queries = share_heads(heads, key_value_heads, shape, shape.key_value_heads)
    if (wrong := ungrouped(queries, groups, shape.group)) is not None:
        raise PlanError(f"student.heads: {wrong}")
    sizes = {
        "key_value_heads": (groups, shape.key_value_heads),
        "intermediate_size": (intermediate or shape.intermediate, shape.intermediate),
        "hidden_size": (width or shape.width, shape.width),
    }
    for field, (ours, theirs) in sizes.items():
        if not 1 <= ours <= theirs:
            raise PlanError(f"student.{field}: {ours} cannot be cut from the teacher's {theirs}. Give 1 to {theirs}.")
    kept = Kept(chosen, tokens=None if kept_tokens is None else tuple(kept_tokens))
    fewer = {field for field, (ours, theirs) in sizes.items() if ours < theirs}
    if queries < shape.heads:
        fewer.add("heads")
    if not fewer:
        return kept
    if scores is None:
        raise PlanError(
            f"student: fewer of {', '.join(sorted(fewer))} need scores of what matters. Measure them first."
        )
    if "heads" in fewer:
        both = [
            _best_heads(row.view(shape.key_value_heads, shape.group), groups, queries // groups) for row in scores.heads
        ]
        kept = replace(kept, heads=tuple(pair[1] for pair in both), groups=tuple(pair[0] for pair in both))
    if "intermediate_size" in fewer:
        kept = replace(kept, neurons=tuple(best(row.tolist(), intermediate or 1) for row in scores.neurons))
    if "hidden_size" in fewer:
        kept = replace(kept, channels=best(scores.channels.tolist(), width or 1))
    return kept


def _best_heads(scores: Tensor, groups: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Key and value heads that stay, and the query heads that stay with them, of scores [K, A / K].

    A group counts by the L2 norm of the `size` heads that it would keep.
    """
    by_group = [best(row.tolist(), size) for row in scores]
    totals = [float(row[list(chosen)].norm()) for row, chosen in zip(scores, by_group, strict=True)]
    kept = best(totals, groups)
    return kept, tuple(group * scores.shape[1] + head for group in kept for head in by_group[group])


def shape_of(teacher: DecoderShape, kept: Kept) -> DecoderShape:
    """The sizes that what is kept of a model of a shape has."""
    return replace(
        teacher,
        layers=len(kept.layers),
        width=teacher.width if kept.channels is None else len(kept.channels),
        heads=teacher.heads if kept.heads is None else len(kept.heads[0]),
        key_value_heads=teacher.key_value_heads if kept.groups is None else len(kept.groups[0]),
        intermediate=teacher.intermediate if kept.neurons is None else len(kept.neurons[0]),
    )


def copy_kept(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    kept: Kept,
    refitted: Mapping[str, Tensor],
    *,
    embeddings_only: bool = False,
) -> int:
    """Fill the student's weights in place from the teacher's, all or those of embeddings and head; how many tensors.

    `refitted`: tensors to copy instead, by their names in the teacher, whose last axis is cut already. Raises PlanError
    at a tensor that is not known here, or is no plain number (a quantized teacher's).
    """
    source = teacher.state_dict()
    size = decoder_shape(teacher.config.to_dict()).head_size
    copied = 0
    for name, target in student.state_dict().items():
        found = _LAYER.match(name)
        layer = kept.layers[int(found[2])] if found else None
        module, _, kind = (found[3] if found else name).rpartition(".")
        origin = f"{found[1]}{layer}.{found[3]}" if found else name
        roles = _ROLES.get(module)
        if roles is None or origin not in source or not source[origin].is_floating_point():
            raise PlanError(
                f'student.kind: from_teacher does not know how to cut "{origin}" of a {teacher.config.model_type}. '
                "Load the teacher unquantized, or use from_config."
            )
        if embeddings_only and roles[0] != "tokens":
            continue
        value = refitted.get(origin, source[origin])
        axes = value.dim() - (origin in refitted)
        for axis, role in enumerate(roles[:axes] if kind == "weight" else roles[:1]):
            if (rows := _rows(kept, role, layer, size)) is not None:
                value = value.index_select(axis, torch.tensor(rows, device=value.device))
        target.copy_(value)
        copied += 1
    return copied


def _sites(teacher: PreTrainedModel, kept: Kept) -> list[Site]:
    """Where the teacher reads an axis that is cut."""
    size = decoder_shape(teacher.config.to_dict()).head_size
    heads = {layer: rows for layer in kept.layers if (rows := _rows(kept, "heads", layer, size)) is not None}
    neurons = {layer: rows for layer in kept.layers if (rows := _rows(kept, "neurons", layer, size)) is not None}
    channels = [] if kept.channels is None else channel_sites(teacher, kept.layers, kept.channels)
    return [*inner_sites(teacher, heads, neurons), *channels]


def _rows(kept: Kept, role: Axis, layer: int | None, size: int) -> list[int] | None:
    """The indices of an axis that stay; None: all."""
    match role:
        case "same":
            return None
        case "width":
            return None if kept.channels is None else list(kept.channels)
        case "tokens":
            return None if kept.tokens is None else list(kept.tokens)
        case "neurons":
            return None if kept.neurons is None or layer is None else list(kept.neurons[layer])
        case "heads" | "groups":
            whole = kept.heads if role == "heads" else kept.groups
            if whole is None or layer is None:
                return None
            return [head * size + place for head in whole[layer] for place in range(size)]
