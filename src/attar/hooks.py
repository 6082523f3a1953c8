"""Queries, keys and values of a model's attention, read by hooks from the projections that make them.

Shape letters: N rows, T tokens, D width of a projection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attar.errors import TrainingError

Vectors = Literal["query", "key", "value"]
Run = Callable[[nn.Module, Mapping[str, Any]], Any]
VECTORS: tuple[Vectors, ...] = get_args(Vectors)

_APART = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("q", "k", "v"),
)
"""What a layer calls its projections: as BERT and ELECTRA, Llama and ViT, DistilBERT, DeBERTa, MPNet."""
_JOINED = ("Wqkv", "qkv", "c_attn")
"""All three one after the other in one projection: as ModernBERT, timm's ViT, GPT-2."""


class AttentionKey(NamedTuple):
    """One projection of one attention layer, these counted from 1 in the model's order."""

    layer: int
    of: Vectors


class Tap(NamedTuple):
    """Where a projection comes out of a model."""

    path: str
    module: nn.Module
    third: int | None
    """Which third of its output; None: all of it."""


def find_taps(model: nn.Module) -> dict[AttentionKey, Tap]:
    """Every projection of every attention layer; empty where no layer bears names that are known.

    Wrappers of DDP and torch.compile are seen through.
    """
    taps: dict[AttentionKey, Tap] = {}
    layers = 0
    for path, module in model.named_modules():
        if (found := _projections(path, module)) is not None:
            layers += 1
            taps |= {AttentionKey(layer=layers, of=of): tap for of, tap in zip(VECTORS, found, strict=True)}
    return taps


def no_taps(model: nn.Module) -> str:
    """Why a model without any tap has none."""
    names = ", ".join("/".join(names) for names in _APART)
    return (
        f"{type(model).__name__} has no attention layer whose projections are known; looked for {names}, or "
        f"{', '.join(_JOINED)} for all three."
    )


@torch.compiler.disable(reason="compiled code does not see hooks that came after it")  # pyright: ignore[reportUntypedFunctionDecorator]
def ask_with_taps(
    model: nn.Module, inputs: Mapping[str, Any], keys: Sequence[AttentionKey], run: Run | None = None
) -> tuple[Any, dict[AttentionKey, Tensor]]:
    """What the model answers, and the wanted projections [N, T, D] with their graph. It runs uncompiled.

    `run` runs it (None: `model(**inputs)`).

    Raises TrainingError, naming the path, where a projection is not there, came out not exactly once, is not [N, T, D],
    or has lost its gradient.
    """
    with torch.compiler.set_stance("force_eager"), tapped(model, keys) as found:
        answer = model(**inputs) if run is None else run(model, inputs)
    rows = len(cast("Tensor", next(iter(inputs.values()))))
    for key, value in found.items():
        if value.dim() != 3 or len(value) != rows:
            raise TrainingError(
                f"{find_taps(model)[key].path}: gave {list(value.shape)} for {rows} rows; [rows, tokens, width] is "
                "needed. Attention within windows or without padding cannot be compared."
            )
    return answer, found


@contextmanager
def tapped(model: nn.Module, keys: Sequence[AttentionKey]) -> Generator[dict[AttentionKey, Tensor]]:
    """Within the block, one forward pass fills the yielded dict. Hooks are gone afterwards, whatever happens.

    What is kept is a copy: a model may go on to change an output in place.
    """
    taps = find_taps(model)
    absent = [key for key in keys if key not in taps]
    if absent:
        layers = max((key.layer for key in taps), default=0)
        told = f"attention layers are 1 to {layers}, but {absent[0].layer} is wanted" if taps else no_taps(model)
        raise TrainingError(f"attention_relations: {told}")
    found: dict[AttentionKey, Tensor] = {}
    fired: Counter[AttentionKey] = Counter()
    learning = torch.is_grad_enabled()

    def note(key: AttentionKey, _: nn.Module, __: Any, output: Tensor) -> None:
        third = taps[key].third
        fired[key] += 1
        found[key] = (output if third is None else output.chunk(3, -1)[third]).clone()

    handles: list[RemovableHandle] = []
    try:
        for key in keys:
            handles.append(taps[key].module.register_forward_hook(partial(note, key)))
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for key in keys:
        _check(taps[key], fired[key], found.get(key), learning)


def _check(tap: Tap, fired: int, value: Tensor | None, learning: bool) -> None:
    if fired != 1 or value is None:
        why = "the model passes it by" if not fired else "layers share it, or it is called again"
        raise TrainingError(
            f"{tap.path}: came out {fired} times in one forward pass, but once is needed: {why}. Choose other layers "
            "for attention_relations, or another objective."
        )
    if learning and not value.requires_grad and any(p.requires_grad for p in tap.module.parameters()):
        raise TrainingError(
            f"{tap.path}: came out without a gradient, though its weights learn. Reentrant checkpointing of "
            "activations does that; set use_reentrant to false."
        )


def _projections(path: str, module: nn.Module) -> list[Tap] | None:
    children = dict(module.named_children())
    for names in _APART:
        if all(name in children for name in names):
            return [Tap(_plain(f"{path}.{name}"), children[name], None) for name in names]
    for name in _JOINED:
        if name in children:
            return [Tap(_plain(f"{path}.{name}"), children[name], third) for third in range(3)]
    return None


def _plain(path: str) -> str:
    """A path without what torch.compile and DDP put into it."""
    return path.replace("_orig_mod.", "").removeprefix("module.")
