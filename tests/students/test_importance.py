"""Scores of layers, heads, neurons and channels are what their definitions say, computed here by hand."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attar.errors import PlanError
from attar.logits import Projection
from attar.objectives.response import forward_kl
from attar.students import decoder
from attar.students.decoder import layers_replaced, mean_kl, skipping, summed_kl
from attar.students.importance import best, choose_layers, rank_layers, remove_layers, spread_layers
from attar.students.width_importance import score_widths
from students.decoders import BATCHES, FAMILIES, TOKENS, logits_of, tiny_decoder

ALL = pytest.mark.parametrize("family", FAMILIES)
PADDING = [{"input_ids": torch.zeros(2, 3, dtype=torch.long), "attention_mask": torch.zeros(2, 3, dtype=torch.long)}]


def by_hand(teacher: nn.Module, gone: set[int]) -> float:
    """Mean forward_kl of dense float64 logits, token by token."""
    double, sums, count = deepcopy(teacher).double(), 0.0, 0
    for batch in BATCHES:
        kept = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        whole = logits_of(double, batch)[kept]
        with layers_replaced(double, skipping(gone)):
            sums += float(forward_kl(logits_of(double, batch)[kept], whole).sum())
        count += len(whole)
    return sums / count


@ALL
def test_kl_of_a_layer_is_that_of_the_model_without_it(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "_LOGITS_A_BLOCK", 5 * TOKENS)
    teacher = tiny_decoder(family, tied=family == "qwen2")
    scores = rank_layers(teacher, BATCHES, "kl")
    assert scores == pytest.approx([by_hand(teacher, {layer}) for layer in range(4)], rel=1e-4)


@ALL
def test_block_influence_is_one_minus_the_cosine(family: str) -> None:
    teacher = tiny_decoder(family)
    turned, count = torch.zeros(4, dtype=torch.float64), 0
    for batch in BATCHES:
        states = [teacher.model.embed_tokens(batch["input_ids"]).double()]
        handles = [
            layer.register_forward_hook(lambda _, args, out, to=states: to.append(out.double()))
            for layer in teacher.model.layers
        ]
        logits_of(teacher, batch)
        for handle in handles:
            handle.remove()
        kept = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).double()
        for index, (x, y) in enumerate(pairwise(states)):
            turned[index] += (kept * (1 - (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt())).sum()
        count += int(kept.sum())
    assert rank_layers(teacher, BATCHES, "block_influence") == pytest.approx((turned / count).tolist(), rel=1e-5)


@ALL
def test_greedy_removal_measures_again_each_time(family: str) -> None:
    teacher = tiny_decoder(family)
    scores, removals = remove_layers(teacher, BATCHES, 3)
    assert scores == pytest.approx(rank_layers(teacher, BATCHES, "kl"))
    gone: set[int] = set()
    for removal in removals:
        costs = {layer: by_hand(teacher, {*gone, layer}) for layer in range(4) if layer not in gone}
        assert removal.layer == min(costs, key=lambda layer: costs[layer])
        assert removal.kl == pytest.approx(costs[removal.layer], rel=1e-4)
        gone.add(removal.layer)
    choice = choose_layers(teacher, BATCHES, 2, "greedy_kl")
    assert set(choice.layers) == {0, 1, 2, 3} - {removal.layer for removal in removals[:2]}
    assert choice.removals == tuple(removals[:2])
    assert choose_layers(teacher, BATCHES, 4, "greedy_kl").layers == (0, 1, 2, 3)


def test_a_layer_that_does_nothing_goes_first_whatever_is_asked() -> None:
    teacher = tiny_decoder()
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        for value in teacher.model.layers[2].get_submodule(part).parameters():
            value.zero_()
    for how in ("block_influence", "kl", "greedy_kl"):
        choice = choose_layers(teacher, BATCHES, 3, how)
        assert choice.layers == (0, 1, 3)
        assert choice.scores[2] == pytest.approx(0, abs=1e-6)


def test_the_most_important_stay() -> None:
    teacher = tiny_decoder()
    scores = rank_layers(teacher, BATCHES, "block_influence")
    assert choose_layers(teacher, BATCHES, 2, "block_influence").layers == best(scores, 2)
    assert best([0.5, 2.0, 0.5, 1.0], 3) == (0, 1, 3)


@given(st.integers(1, 60), st.data())
def test_spread_layers_hold_both_ends(total: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, total))
    layers = spread_layers(keep, total)
    assert len(set(layers)) == keep
    assert list(layers) == sorted(layers)
    assert layers[0] == 0
    assert keep < 2 or layers[-1] == total - 1
    assert keep < 3 or layers[1] == 1
    gaps = {b - a for a, b in pairwise(layers[1:])}
    assert not gaps or max(gaps) - min(gaps) <= 1


@ALL
def test_width_scores_are_the_l2_norm_of_mean_magnitudes(family: str) -> None:
    teacher = tiny_decoder(family)
    found = score_widths(teacher, BATCHES)
    size = teacher.model.layers[0].self_attn.head_dim
    for layer in range(4):
        parts = teacher.model.layers[layer]
        heads = squared_means(teacher, parts.self_attn.o_proj, inside=True).view(4, size).sum(-1).sqrt()
        torch.testing.assert_close(found.heads[layer], heads, rtol=1e-5, atol=0)
        neurons = squared_means(teacher, parts.mlp.down_proj, inside=True).sqrt()
        torch.testing.assert_close(found.neurons[layer], neurons, rtol=1e-5, atol=0)
    norms = [n for layer in teacher.model.layers for n in (layer.input_layernorm, layer.post_attention_layernorm)]
    channels = [squared_means(teacher, norm, inside=False).sqrt() for norm in [*norms, teacher.model.norm]]
    torch.testing.assert_close(found.channels, torch.stack(channels).sum(0), rtol=1e-5, atol=0)


def squared_means(teacher: nn.Module, module: nn.Module, *, inside: bool) -> Tensor:
    """Row by row: the mean magnitude over the tokens that count, squared, summed over rows; [D] float64."""
    total = torch.zeros((), dtype=torch.float64)
    for batch in BATCHES:
        seen: list[Tensor] = []
        handle = module.register_forward_hook(lambda _, args, out, to=seen: to.append(args[0] if inside else out))
        logits_of(teacher, batch)
        handle.remove()
        for row, values in enumerate(seen[0].double()):
            length = int(batch["attention_mask"][row].sum()) if "attention_mask" in batch else len(values)
            total = total + values[:length].abs().mean(0).square()
    return total


MEASURES = {
    "block_influence": partial(rank_layers, how="block_influence"),
    "kl": partial(rank_layers, how="kl"),
    "greedy": partial(remove_layers, count=1),
    "widths": score_widths,
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_measured_model_is_left_as_it_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_decoder().train()
    layers, ids = list(teacher.model.layers), [id(module) for module in teacher.modules()]
    MEASURES[name](teacher, BATCHES)
    handles = [len(module._forward_hooks) for module in teacher.modules()]

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(teacher.model.norm, "forward", broken)
    with pytest.raises(RuntimeError, match="on purpose"):
        MEASURES[name](teacher, BATCHES)
    for now in (handles, [len(module._forward_hooks) for module in teacher.modules()]):
        assert sum(now) == 0
    assert [id(module) for module in teacher.modules()] == ids
    assert list(teacher.model.layers) == layers
    assert teacher.training


@pytest.mark.parametrize("name", MEASURES)
def test_without_tokens_nothing_is_measured(name: str) -> None:
    for batches in ([], PADDING):
        with pytest.raises(PlanError, match="training rows, but none were given"):
            MEASURES[name](tiny_decoder(), batches)


def test_a_model_has_no_distance_to_itself_and_one_to_another() -> None:
    teacher, other = tiny_decoder(), tiny_decoder(seed=1)
    assert mean_kl(teacher, deepcopy(teacher), BATCHES) == pytest.approx(0, abs=1e-7)
    whole = mean_kl(teacher, other, BATCHES)
    assert whole > 0.1
    assert mean_kl(teacher, other, BATCHES, tokens=range(TOKENS)) == pytest.approx(whole, rel=1e-5)
    few = [torch.cat([logits_of(m, batch)[mask] for batch, mask in masked()])[:, 5:9] for m in (teacher, other)]
    assert mean_kl(teacher, other, BATCHES, tokens=range(5, 9)) == pytest.approx(
        float(forward_kl(few[1].double(), few[0].double()).mean()), rel=1e-4
    )


def masked() -> list[tuple[dict[str, Tensor], Tensor]]:
    return [(b, b.get("attention_mask", torch.ones_like(b["input_ids"])).bool()) for b in BATCHES]


def test_the_streamed_sum_is_forward_kl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "_LOGITS_A_BLOCK", 3 * TOKENS)
    parts = [Projection(torch.randn(10, 4).double(), torch.randn(TOKENS, 4).double()) for _ in range(3)]
    expected = [float(forward_kl(p.dense(), parts[0].dense()).sum()) for p in parts]
    assert summed_kl(parts[0], parts) == pytest.approx(expected, abs=1e-12)
