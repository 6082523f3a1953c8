"""Objectives on maps and attention against the float64 oracle and peers; what they learn, against peers too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torchdistill.losses.mid_level import ATLoss, HierarchicalContextLoss
from torchdistill.models.wrapper import AttentionBasedFusion

from attar.objectives.feature import (
    MaskedGeneration,
    ReviewFusion,
    at_one_size,
    attention_relations,
    attention_transfer,
    channel_wise,
    fitnet,
    hierarchical_context,
    mse_distance,
)
from attar.objectives.learned import convolve, make_convolution
from objectives.oracles import feature

ON_MAPS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "fitnet": (fitnet, feature.fitnet),
    "attention_transfer": (attention_transfer, partial(feature.attention_transfer, power=2.0)),
    "attention_transfer_1": (
        partial(attention_transfer, power=1.0),
        partial(feature.attention_transfer, power=1.0),
    ),
    "channel_wise": (channel_wise, feature.channel_wise),
    "hierarchical_context": (hierarchical_context, feature.hierarchical_context),
}
SIZES = [((5, 5), (5, 5)), ((6, 6), (3, 3)), ((4, 4), (7, 7)), ((3, 8), (5, 6)), ((1, 1), (1, 1))]
quick = settings(max_examples=25, derandomize=True)


def drawn(*shape: int, seed: int = 3, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def maps(
    sizes: tuple[tuple[int, int], tuple[int, int]] = ((5, 5), (5, 5)), channels: tuple[int, int] = (3, 3)
) -> tuple[Tensor, Tensor]:
    ours, theirs = (drawn(4, c, *size, seed=seed) for seed, c, size in zip((1, 2), channels, sizes, strict=True))
    return ours, theirs


@pytest.mark.parametrize("name", ON_MAPS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0])
def test_value_is_the_oracles(name: str, sizes: tuple[tuple[int, int], tuple[int, int]], scale: float) -> None:
    ours, theirs = ON_MAPS[name]
    student, teacher = (scale * side for side in maps(sizes))
    expected = theirs(student.numpy(), teacher.numpy())
    np.testing.assert_allclose(ours(student, teacher).numpy(), expected, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(ours(student.float(), teacher.float()).numpy(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ON_MAPS)
def test_no_rows_and_the_teacher_untouched(name: str) -> None:
    ours, _ = ON_MAPS[name]
    student, teacher = (side.requires_grad_() for side in maps(((6, 6), (4, 4))))
    assert ours(student[:0], teacher[:0]).shape == (0,)
    ours(student, teacher).sum().backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@quick
@given(ours=st.tuples(*[st.integers(1, 9)] * 2), theirs=st.tuples(*[st.integers(1, 9)] * 2))
def test_the_larger_map_is_averaged_down(ours: tuple[int, int], theirs: tuple[int, int]) -> None:
    student, teacher = maps((ours, theirs))
    small = at_one_size(student, teacher)
    assert small[0].shape[2:] == small[1].shape[2:] == (min(ours[0], theirs[0]), min(ours[1], theirs[1]))
    for mine, oracle in zip(small, feature.at_one_size(student.numpy(), teacher.numpy()), strict=True):
        np.testing.assert_allclose(mine.numpy(), oracle)
    if ours <= theirs and ours[1] <= theirs[1]:
        assert small[0] is student


def test_fitnet_is_the_mean_over_pixels_of_their_distance() -> None:
    """The number of token rows with `mse_distance`; of a batch torch's MSE, which is RepDistiller's hint loss."""
    student, teacher = maps()
    pixels = mse_distance(student.movedim(1, -1), teacher.movedim(1, -1)).mean((1, 2))
    torch.testing.assert_close(fitnet(student, teacher), pixels)
    torch.testing.assert_close(fitnet(student, teacher).mean(), functional.mse_loss(student, teacher))


@pytest.mark.parametrize("channels", [(3, 3), (2, 5)])
def test_attention_transfer_agrees_with_torchdistill(channels: tuple[int, int]) -> None:
    """Its `code` mode is a mean over rows and pixels; its `paper` mode has the norm, the root of H W times ours."""
    student, teacher = maps(channels=channels)
    peer = ATLoss({}, mode="code")
    value = attention_transfer(student, teacher)
    torch.testing.assert_close(value.mean(), peer.compute_at_loss(student, teacher))
    torch.testing.assert_close((25 * value).sqrt().sum(), peer.compute_at_loss_paper(student, teacher))


def test_attention_transfer_is_blind_to_scale_sign_and_channels_order() -> None:
    student, teacher = maps()
    value = attention_transfer(student, teacher)
    for same in (3 * student, -student, student.flip(1)):
        torch.testing.assert_close(attention_transfer(same, teacher), value)
    assert (attention_transfer(student.flip(-1), teacher) - value).abs().min() > 1e-4


def test_attention_of_a_dead_map_has_a_finite_gradient() -> None:
    """After a ReLU whole maps may be 0."""
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    value = attention_transfer(dead, torch.ones(2, 1, 4, 4))
    value.sum().backward()
    assert value.tolist() == [1 / 16, 1 / 16]
    assert torch.isfinite(dead.grad).all()
    with pytest.raises(ValueError, match=r"power is 0\.5"):
        attention_transfer(dead, dead, power=0.5)


def channel_wise_of_the_authors(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 / (N C) of the summed KL over channels, as in the authors' code and MMRazor (arXiv:2011.13256)."""
    rows, channels = student.shape[:2]
    pair = (side.flatten(2).flatten(0, 1) / temperature for side in (student, teacher))
    ours, theirs = (side.log_softmax(-1) for side in pair)
    kl = functional.kl_div(ours, theirs, reduction="sum", log_target=True)
    return temperature**2 * kl / (rows * channels)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channel_wise_agrees_with_the_authors(temperature: float) -> None:
    student, teacher = maps()
    value = temperature**2 * channel_wise(student / temperature, teacher / temperature)
    torch.testing.assert_close(value.mean(), channel_wise_of_the_authors(student, teacher, temperature))


@quick
@given(shift=st.lists(st.floats(-20, 20), min_size=3, max_size=3))
def test_channel_wise_is_unmoved_by_a_shift_of_each_channel(shift: list[float]) -> None:
    student, teacher = maps()
    moved = student + torch.tensor(shift, dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(channel_wise(moved, teacher), channel_wise(student, teacher))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_hierarchical_context_agrees_with_torchdistill(size: int) -> None:
    student, teacher = maps(((size, size), (size, size)))
    peer = HierarchicalContextLoss("s", "output", "t", "output")
    theirs = peer({"s": {"output": (student, None)}}, {"t": {"output": teacher}})
    torch.testing.assert_close(hierarchical_context(student, teacher).mean(), theirs)


def masks() -> Tensor:
    return torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 0, 1]]).bool()


@pytest.mark.parametrize(("widths", "heads"), [((8, 8), 2), ((4, 12), 4), ((6, 3), 1)])
@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_attention_relations_are_the_oracles(widths: tuple[int, int], heads: int, scale: float) -> None:
    student, teacher = (drawn(3, 5, width, seed=width, scale=scale) for width in widths)
    whole = torch.ones(3, 5, dtype=torch.bool)
    for mask in (masks(), whole):
        expected = feature.attention_relations(student.numpy(), teacher.numpy(), heads, mask.numpy())
        np.testing.assert_allclose(attention_relations(student, teacher, heads=heads, mask=mask), expected, rtol=1e-9)
    torch.testing.assert_close(
        attention_relations(student, teacher, heads=heads),
        attention_relations(student, teacher, heads=heads, mask=whole),
    )


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_tokens_that_do_not_count_may_hold_anything(garbage: float) -> None:
    student, teacher = drawn(3, 5, 4, seed=1), drawn(3, 5, 4, seed=2)
    mask = masks()
    expected = attention_relations(student, teacher, heads=2, mask=mask)
    leaf = torch.where(mask[..., None], student, garbage).requires_grad_()
    value = attention_relations(leaf, torch.where(mask[..., None], teacher, garbage), heads=2, mask=mask)
    value.sum().backward()
    assert torch.equal(value, expected)
    assert torch.isfinite(leaf.grad).all()
    assert (leaf.grad[~mask] == 0).all()


def test_a_row_without_tokens_is_nothing() -> None:
    student, teacher = drawn(2, 3, 4, seed=1).requires_grad_(), drawn(2, 3, 4, seed=2)
    mask = torch.tensor([[0, 0, 0], [1, 1, 0]]).bool()
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        value = attention_relations(student, teacher, heads=2, mask=mask)
        value.sum().backward()
    assert value[0] == 0
    assert value[1] > 0
    assert (student.grad[0] == 0).all()
    assert torch.isfinite(student.grad).all()
    lone = attention_relations(student[:, :1], teacher[:, :1], heads=2)  # one token resembles itself alone
    assert (lone == 0).all()


def test_attention_relations_know_no_rotation_of_a_head() -> None:
    student, teacher = drawn(2, 5, 8, seed=1), drawn(2, 5, 8, seed=2)
    turns = torch.block_diag(*[torch.linalg.qr(drawn(4, 4, seed=seed))[0] for seed in (5, 6)])
    torch.testing.assert_close(
        attention_relations(student @ turns, teacher, heads=2), attention_relations(student, teacher, heads=2)
    )


def test_attention_relations_refuse_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide the teacher's width 8"):
        attention_relations(torch.zeros(1, 2, 6), torch.zeros(1, 2, 8), heads=3)
    with pytest.raises(ValueError, match="0 heads"):
        attention_relations(torch.zeros(1, 2, 6), torch.zeros(1, 2, 8), heads=0)


def test_convolution_is_torchs_from_its_own_generator() -> None:
    before = torch.get_rng_state()
    first, same, other = (
        make_convolution(3, 5, 3, seed=seed, name=name, bias=True) for seed, name in ((1, "a"), (1, "a"), (1, "b"))
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.weight, same.weight)
    assert torch.equal(first.bias, same.bias)
    assert not torch.equal(first.weight, other.weight)
    bound = 1 / np.sqrt(27)  # torch's own, for weight and bias alike
    for made in (first.weight, first.bias):
        assert 0.6 * bound < made.abs().max() <= bound
    features = drawn(2, 3, 4, 4)
    torch.testing.assert_close(convolve(features.float(), first), first(features.float()))
    assert convolve(features, first).dtype is torch.float64
    assert convolve(features.bfloat16(), first).dtype is torch.float32


def review(seed: int = 0) -> ReviewFusion:
    return ReviewFusion([2, 3, 4], [5, 6, 7], width=8, seed=seed, name="review_kd")


def stages(rows: int = 3) -> list[Tensor]:
    return [drawn(rows, c, size, size, seed=c).float() for c, size in ((2, 8), (3, 4), (4, 1))]


def test_review_agrees_with_torchdistill() -> None:
    """Theirs has the sizes written out; ours reads them off the student's maps."""
    ours = review()
    fused = ours(stages())
    assert [made.shape for made in fused] == [(3, 5, 8, 8), (3, 6, 4, 4), (3, 7, 1, 1)]
    residual = None
    for at in (2, 1, 0):
        stage = ours.stages[at]
        peer = AttentionBasedFusion(stages()[at].shape[1], 8, 5 + at, uses_attention=at < 2)
        pairs = [(peer.conv1, (stage.enter, stage.enter_norm)), (peer.conv2, (stage.leave, stage.leave_norm))]
        for theirs, (convolution, norm) in pairs:
            theirs[0].load_state_dict(convolution.state_dict())
            theirs[1].load_state_dict(nn.BatchNorm2d(norm.num_features).state_dict())
        if at < 2:
            peer.attention_conv[0].load_state_dict(stage.attention.state_dict())
        made, residual = peer(stages()[at], residual, size=stages()[at].shape[-1])
        torch.testing.assert_close(fused[at], made)
        torch.testing.assert_close(stage.leave_norm.running_var, peer.conv2[1].running_var)


def test_review_of_one_row_uses_the_running_statistics() -> None:
    """One value a channel has no spread; torch's batch normalisation would raise."""
    fused = review()([side[:1] for side in stages()])
    assert all(torch.isfinite(made).all() for made in fused)
    assert [len(made) for made in review()([side[:0] for side in stages()])] == [0, 0, 0]


def test_review_learns_all_of_itself() -> None:
    module = review()
    student = [side.requires_grad_() for side in stages()]
    teacher = [drawn(*made.shape, seed=at).float() for at, made in enumerate(module.eval()(student))]
    values = [hierarchical_context(made, t) for made, t in zip(module.train()(student), teacher, strict=True)]
    torch.stack(values).sum().backward()
    assert all(part.grad.abs().max() > 0 for part in [*student, *module.parameters()])


def generation(**options: object) -> MaskedGeneration:
    return MaskedGeneration(2, 3, seed=0, name="masked_generation", **options)


def test_generation_is_that_of_the_authors_where_nothing_is_masked() -> None:
    module, features = generation().eval(), drawn(4, 2, 5, 5).float()
    theirs = nn.Sequential(module.align, module.first, nn.ReLU(), module.second)
    torch.testing.assert_close(module(features), theirs(features))
    assert MaskedGeneration(3, 3, seed=0, name="masked_generation").align is None
    torch.testing.assert_close(generation(masked=0.0).train()(features), theirs(features))


@pytest.mark.parametrize("of", ["pixels", "channels"])
def test_generation_masks_the_share(of: str) -> None:
    module = generation(masked=0.3, of=of)
    mask = module._mask(torch.ones(50, 3, 20, 20))
    assert mask.shape == ((50, 1, 20, 20) if of == "pixels" else (50, 3, 1, 1))
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(0.7, abs=0.02 if of == "pixels" else 0.1)


def test_masks_change_with_each_batch_and_go_on_after_a_checkpoint() -> None:
    features = drawn(4, 2, 5, 5).float()
    before = torch.get_rng_state()
    module = generation()
    first, second = module(features), module(features)
    assert not torch.equal(first, second)
    resumed = generation()
    assert torch.equal(resumed(features), first)
    saved = resumed.state_dict()
    again = generation()
    again.load_state_dict(saved)
    assert torch.equal(again(features), second)
    assert torch.equal(before, torch.get_rng_state())


def test_generation_learns_all_of_itself_towards_the_teacher() -> None:
    module = generation()
    student, teacher = drawn(4, 2, 5, 5).float().requires_grad_(), drawn(4, 3, 5, 5).float()
    fitnet(module(student), teacher).sum().backward()
    assert all(part.grad.abs().max() > 0 for part in [student, *module.parameters()])
    with pytest.raises(ValueError, match=r"masked is 1\.0"):
        generation(masked=1.0)
