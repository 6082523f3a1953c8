"""Layer maps, projectors, and tokens that meet."""

from __future__ import annotations

import pytest
import torch

from attar.errors import PlanError, TrainingError
from attar.objectives.terms.layers import layer_pairs, make_projector, project, token_rows, tokens_in_place

PLACE = "objectives[1].layers"


def test_last() -> None:
    assert layer_pairs("last", student=2, teacher=12, place=PLACE) == ((2, 12),)


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (4, 12, ((1, 3), (2, 6), (3, 9), (4, 12))),
        (2, 5, ((1, 3), (2, 5))),
        (3, 3, ((1, 1), (2, 2), (3, 3))),
        (5, 2, ((1, 1), (2, 1), (3, 1), (4, 2), (5, 2))),
    ],
)
def test_uniform(student: int, teacher: int, pairs: tuple[tuple[int, int], ...]) -> None:
    assert layer_pairs("uniform", student=student, teacher=teacher, place=PLACE) == pairs


def test_pairs_count_from_the_end_too() -> None:
    assert layer_pairs(((0, 0), (-1, -1), (1, -13)), student=2, teacher=12, place=PLACE) == ((0, 0), (2, 12), (1, 0))


def test_every_pair_out_of_range_is_named_with_what_is_allowed() -> None:
    with pytest.raises(PlanError) as caught:
        layer_pairs(((3, 12), (1, 13), (-4, 1)), student=2, teacher=12, place=PLACE)
    assert len(caught.value.problems) == 3
    assert caught.value.problems[0].startswith(
        "objectives[1].layers[0]: the student has no hidden state 3; allowed are 0"
    )
    assert "objectives[1].layers[1]: the teacher has no hidden state 13" in caught.value.problems[1]
    assert "to 12, or -1 (the last) to -13" in caught.value.problems[1]


def test_no_pairs_and_no_layers() -> None:
    with pytest.raises(PlanError, match="no pairs"):
        layer_pairs((), student=2, teacher=12, place=PLACE)
    with pytest.raises(PlanError, match="the student has 0"):
        layer_pairs("uniform", student=0, teacher=12, place=PLACE)


def test_projector_is_seeded_and_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = make_projector(3, 5, seed=1, name="hidden_1_2")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(make_projector(3, 5, seed=1, name="hidden_1_2").weight, first.weight)
    assert not torch.equal(make_projector(3, 5, seed=2, name="hidden_1_2").weight, first.weight)
    assert not torch.equal(make_projector(3, 5, seed=1, name="hidden_2_2").weight, first.weight)
    assert first.weight.shape == (5, 3)
    assert first.bias is None
    assert first.weight.abs().max() <= 3**-0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_is_computed_in_the_rows_precision(dtype: torch.dtype) -> None:
    projector = make_projector(3, 5, seed=1, name="x").bfloat16()
    states = torch.randn(2, 3, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        projected = project(states, projector)
    assert projected.dtype is dtype
    torch.testing.assert_close(projected, states @ projector.weight.to(dtype).T)
    assert project(states, None) is states


STATES = torch.arange(12.0).reshape(2, 3, 2)
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def test_tokens_without_masks_are_all_kept_and_counted_by_rows() -> None:
    ours, theirs, unit = token_rows(STATES, STATES + 1, None, None, name="hidden")
    assert ours.shape == (6, 2)
    assert torch.equal(theirs, ours + 1)
    assert unit == 3


def test_without_a_student_mask_the_count_is_in_rows_whatever_the_teacher_has() -> None:
    ours, _, unit = token_rows(STATES, STATES + 1, None, torch.ones(2, 3), name="hidden")
    assert (len(ours), unit) == (6, 3)


def test_the_students_mask_may_hide_what_the_teacher_sees() -> None:
    ours, theirs, unit = token_rows(STATES, STATES + 1, MASK, torch.ones(2, 3), name="hidden")
    assert torch.equal(ours, STATES[MASK.bool()])
    assert torch.equal(theirs, ours + 1)
    assert unit == 1


@pytest.mark.parametrize("left", [False, True])
def test_padding_may_differ(left: bool) -> None:
    pad, wide = torch.full((2, 2, 2), torch.nan), torch.zeros(2, 2)
    teacher = torch.cat((pad, STATES) if left else (STATES, pad), 1)
    mask = torch.cat((wide, MASK) if left else (MASK, wide), 1)
    ours, theirs, _ = token_rows(STATES, teacher, MASK, mask, name="hidden")
    assert torch.equal(ours, theirs)
    leaf = STATES.clone().requires_grad_()
    one, two, keep = tokens_in_place(leaf, teacher, MASK, mask, name="attention_relations")
    assert keep is not None
    assert keep.sum(1).tolist() == MASK.sum(1).tolist()
    assert torch.equal(one, two), "tokens that count are in front, the rest is 0 on both sides"
    one.sum().backward()
    assert torch.equal(leaf.grad, MASK.unsqueeze(-1).expand_as(leaf))


def test_places_stay_where_the_shapes_agree() -> None:
    same = tokens_in_place(STATES, STATES + 1, None, None, name="attention_relations")
    assert same[0] is STATES
    assert same[2] is None
    one, two, keep = tokens_in_place(STATES, STATES + 1, MASK, torch.ones(2, 3), name="attention_relations")
    assert torch.equal(two, one + 1)
    assert torch.equal(keep, MASK.bool())


def test_different_tokens_are_refused_with_their_numbers() -> None:
    with pytest.raises(TrainingError, match=r"hidden: row 0 has 3 tokens for the student, but 2 for the teacher"):
        token_rows(STATES, STATES, torch.ones(2, 3), MASK, name="hidden")
    with pytest.raises(TrainingError, match="row 0 has 2 tokens for the student, but 4"):
        token_rows(STATES, torch.zeros(2, 4, 2), MASK, None, name="hidden")


def test_attention_layers_are_counted_from_one() -> None:
    options = {"student": 2, "teacher": 12, "place": PLACE, "first": 1}
    assert layer_pairs(((1, 1), (-1, -12)), **options) == ((1, 1), (2, 1))
    assert layer_pairs("uniform", **options) == layer_pairs("uniform", student=2, teacher=12, place=PLACE)
    with pytest.raises(PlanError) as error:
        layer_pairs(((0, 12), (1, -13)), **options)
    assert len(error.value.problems) == 2
    assert "no attention layer 0; allowed are 1 to 2, or -1 (the last) to -2" in error.value.problems[0]


def test_pairs_that_were_chosen() -> None:
    assert layer_pairs("cka", student=2, teacher=12, place=PLACE, chosen=[(1, 4), (2, 9)]) == ((1, 4), (2, 9))
    with pytest.raises(PlanError, match="`cka` needs rows"):
        layer_pairs("cka", student=2, teacher=12, place=PLACE)
