"""Which layers of a causal language model matter, measured by forward passes over real tokens, without labels.

A layer is taken out by handing on its input. What that costs at once, its divergence says, but not what training mends:
layers chosen by block influence started further from their teacher and ended nearer (`benchmarks/lm/cuts.py`).

Shape letters: N rows, T tokens, R tokens that count, L layers, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, assert_never

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from attar.errors import PlanError
from attar.logits import Projection
from attar.recipe.student import LayerImportance
from attar.students.decoder import (
    Batch,
    Given,
    body_layers,
    head_weight,
    kept_tokens,
    last_states,
    layers_replaced,
    only_asked,
    skipping,
    summed_kl,
)


@dataclass(frozen=True)
class Removal:
    """One layer taken out, and how far the model is from the whole one afterwards."""

    layer: int
    kl: float
    """Mean KL(whole || without this one and all before it) a token, nats."""


@dataclass(frozen=True)
class LayerChoice:
    """Which layers stay, and on what grounds."""

    layers: tuple[int, ...]
    """Ascending; 0 is the first."""
    scores: tuple[float, ...] = ()
    """Of every layer of the whole model, the greater the more it matters; empty where none was measured."""
    removals: tuple[Removal, ...] = ()
    """In their order, where layers were taken out one after another."""


def choose_layers(model: nn.Module, batches: Sequence[Batch], keep: int, how: LayerImportance) -> LayerChoice:
    """Choose `keep` (1 to L) of a model's layers; where all of them stay, nothing is measured.

    Raises PlanError where `how` needs batches and there are none, or where there are not as many layers.
    """
    total = len(body_layers(model))
    if not 1 <= keep <= total:
        raise PlanError(f"student.layers: {keep} layers cannot be cut from a teacher with {total}. Give 1 to {total}.")
    if keep == total:
        return LayerChoice(tuple(range(total)))
    match how:
        case "uniform":
            return LayerChoice(spread_layers(keep, total))
        case "block_influence" | "kl":
            scores = rank_layers(model, batches, how)
            return LayerChoice(best(scores, keep), tuple(scores))
        case "greedy_kl":
            scores, removals = remove_layers(model, batches, total - keep)
            gone = {removal.layer for removal in removals}
            return LayerChoice(tuple(i for i in range(total) if i not in gone), tuple(scores), tuple(removals))
        case _:
            assert_never(how)


def spread_layers(keep: int, total: int) -> tuple[int, ...]:
    """`keep` of `total` layers without looking: the first two and the last, and evenly between the second and the last.

    In that order of need: one layer is the first, two are the first and the last.
    """
    if keep <= 2:
        return (0, total - 1)[:keep] if total > 1 else (0,)
    return (0, *(1 + round(i * (total - 2) / (keep - 2)) for i in range(keep - 1)))


def best(scores: Sequence[float], keep: int) -> tuple[int, ...]:
    """The `keep` indices of the greatest scores, ascending; of equal ones the lower index."""
    return tuple(sorted(sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:keep]))


def rank_layers(model: nn.Module, batches: Sequence[Batch], how: Literal["block_influence", "kl"]) -> list[float]:
    """How much each layer matters, [L], means over the tokens that count; the model is left as it was.

    `block_influence`: 1 - cos(input, output) of the layer, in 0..2, from one pass (ShortGPT, arXiv:2403.03853). `kl`:
    KL(whole || without the layer), nats, from one pass a layer, begun where the layer was. Raises PlanError where there
    are no batches.
    """
    _check(batches, how)
    with only_asked(model):
        match how:
            case "block_influence":
                return _influence(model, batches)
            case "kl":
                return _without_each(model, batches, _whole(model, batches), ())
            case _:
                assert_never(how)


def remove_layers(model: nn.Module, batches: Sequence[Batch], count: int) -> tuple[list[float], list[Removal]]:
    """Take out `count` layers one after another, each time the one whose absence moves the answers least.

    Returns the scores of the first round, those of `rank_layers(…, "kl")`, and the layers in the order of removal; the
    model is left as it was. Costs a pass a layer still there and a round. (SLEB, arXiv:2402.09025, does so by the loss
    on labels.) Raises PlanError where there are no batches.
    """
    _check(batches, "greedy_kl")
    removals: list[Removal] = []
    first: list[float] = []
    with only_asked(model):
        whole = _whole(model, batches)
        for turn in range(max(count, 1)):
            gone = [removal.layer for removal in removals]
            present = [i for i in range(len(body_layers(model))) if i not in gone]
            scores = _without_each(model, batches, whole, gone)
            first = first if turn else scores
            least = min(range(len(present)), key=lambda index: scores[index])
            removals.append(Removal(present[least], scores[least]))
    return first, removals[:count]


def _check(batches: Sequence[Batch], how: str) -> None:
    if not any(bool(kept_tokens(batch).any()) for batch in batches):
        raise PlanError(
            f"student.layer_importance: {how} is measured on training rows, but none were given. Hand over batches of "
            "token ids, or use layer_importance: uniform."
        )


def _whole(model: nn.Module, batches: Sequence[Batch]) -> list[Tensor]:
    """Last states [R, D] of each batch with every layer in place."""
    return [last_states(model, batch) for batch in batches]


def _influence(model: nn.Module, batches: Sequence[Batch]) -> list[float]:
    sums, count = [0.0] * len(body_layers(model)), 0
    for batch in batches:
        kept = kept_tokens(batch)
        with _passed(model) as passed:
            last_states(model, batch)
        for index, (before, after) in passed.items():
            cosine = functional.cosine_similarity(before[kept].double(), after[kept].double(), dim=-1)
            sums[index] += float((1.0 - cosine).sum())
        count += int(kept.sum())
    return [total / count for total in sums]


def _without_each(
    model: nn.Module, batches: Sequence[Batch], whole: Sequence[Tensor], gone: Collection[int]
) -> list[float]:
    """KL of the whole model from it without `gone` and one more, for each of the layers still there."""
    present = [i for i in range(len(body_layers(model))) if i not in gone]
    weight = head_weight(model)
    sums = [0.0] * len(present)
    for batch, states in zip(batches, whole, strict=True):
        with layers_replaced(model, skipping(gone)), _passed(model) as passed:
            last_states(model, batch)
        others: list[Projection] = []
        for layer in present:
            before = {**skipping({*gone, *range(layer)}), layer: Given(passed[layer][0])}
            with layers_replaced(model, before):
                others.append(Projection(last_states(model, batch), weight))
        sums = [a + b for a, b in zip(sums, summed_kl(Projection(states, weight), others), strict=True)]
    count = sum(len(states) for states in whole)
    return [total / count for total in sums]


@contextmanager
def _passed(model: nn.Module) -> Generator[dict[int, tuple[Tensor, Tensor]]]:
    """One forward pass within the block fills the dict with each layer's input and output, [N, T, D]."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    handles: list[RemovableHandle] = []

    def note(index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            found[index] = (args[0], output)

        return hook

    try:
        handles.extend(layer.register_forward_hook(note(index)) for index, layer in _numbered(model))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _numbered(model: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    return enumerate(body_layers(model))
