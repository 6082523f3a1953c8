"""What a cut of a causal language model may be, in numbers; and what Transformers builds of those that may."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.plan.cuts import DecoderShape, cut_shape, decoder_shape
from attar.recipe.student import FromTeacherSpec
from plan.samples import problems_of

TEACHER = DecoderShape(layers=30, width=576, heads=9, key_value_heads=3, head_size=64, intermediate=1536)


def shape_of(family: str = "mistral", teacher: DecoderShape = TEACHER, **changes: object) -> tuple[DecoderShape, list]:
    return cut_shape(FromTeacherSpec(kind="from_teacher", **{"layers": 8, **changes}), teacher, family)


def test_sizes_are_read_with_the_defaults_of_the_family() -> None:
    small = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 100}
    assert decoder_shape({"model_type": "llama", **small}) == DecoderShape(2, 64, 4, 4, 16, 100)
    assert decoder_shape({"model_type": "qwen3", **small, "num_key_value_heads": 2}).head_size == 128
    assert decoder_shape({"model_type": "mistral", **small}).key_value_heads == 8
    assert decoder_shape({"model_type": "llama", **small, "head_dim": None}).head_size == 16


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"layers": 8}),
        ({"layers": (0, 3, 29)}, {"layers": 3}),
        ({"hidden_size": 384}, {"width": 384, "heads": 6, "key_value_heads": 2, "intermediate": 1024}),
        ({"hidden_size": 100}, {"width": 100, "heads": 3, "key_value_heads": 1, "intermediate": 266}),
        ({"heads": 6}, {"heads": 6, "key_value_heads": 2}),
        ({"heads": 3, "key_value_heads": 3}, {"heads": 3}),
        ({"key_value_heads": 1}, {"heads": 3, "key_value_heads": 1}),
        ({"hidden_size": 288, "heads": 9}, {"width": 288, "intermediate": 768}),
        ({"intermediate_size": 512}, {"intermediate": 512}),
    ],
)
def test_what_is_absent_follows_the_width_in_whole_groups(changes: dict, expected: dict) -> None:
    shape, problems = shape_of(**changes)
    assert problems == []
    assert asdict(shape) == {**asdict(TEACHER), "layers": 8, **expected}


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"layers": 31}, "layers", "31 layers cannot be cut from a teacher with 30. Allowed: 1 to 30."),
        ({"layers": (0, 30)}, "layers", "[30] are not layers of the teacher. Allowed: 0 to 29."),
        ({"layers": (3, 2)}, "layers", "[3, 2] must ascend, each layer once."),
        (
            {"hidden_size": 600},
            "hidden_size",
            "600 is more than the teacher's 576. Allowed: at most 576, or init: random.",
        ),
        ({"heads": 10}, "heads", "10 is more than the teacher's 9."),
        ({"key_value_heads": 4}, "key_value_heads", "4 is more than the teacher's 3."),
        ({"intermediate_size": 2000}, "intermediate_size", "2000 is more than the teacher's 1536."),
        (
            {"heads": 4},
            "heads",
            "4 heads cannot share 3 key and value heads evenly, 3 each at most. Set student.heads to 3",
        ),
        ({"heads": 8, "key_value_heads": 2}, "heads", "Set student.heads to 2, 4, 6, or another"),
        ({"layers": (1, 2), "layer_importance": "kl"}, "layer_importance", "student.layers says which layers stay."),
        ({"max_positions": 99}, "max_positions", "a mistral has rotary positions"),
    ],
)
def test_what_cannot_be_is_told_with_the_next_move(changes: dict, field: str, message: str) -> None:
    told = [text for where, text in shape_of(**changes)[1] if where == field]
    assert any(message in text for text in told), told


def test_a_llama_s_heads_divide_its_width() -> None:
    assert shape_of("qwen2", hidden_size=380, heads=6)[1] == []
    [(field, message)] = shape_of("llama", hidden_size=380, heads=6)[1]
    assert field == "heads"
    assert message == "6 heads do not divide hidden_size 380. Set student.heads to 2, 4, 10, 20."


def test_a_student_that_copies_nothing_may_be_larger() -> None:
    assert shape_of(hidden_size=768, heads=16, key_value_heads=2, intermediate_size=4096, init="random")[1] == []


@given(st.integers(1, 8), st.integers(1, 4), st.data())
def test_what_is_let_through_has_whole_groups(groups: int, group: int, data: st.DataObject) -> None:
    teacher = DecoderShape(4, 64, groups * group, groups, 8, 128)
    heads = data.draw(st.none() | st.integers(1, 32))
    kept = data.draw(st.none() | st.integers(1, 8))
    shape, problems = shape_of(teacher=teacher, layers=2, heads=heads, key_value_heads=kept)
    assert heads in (None, shape.heads)
    assert kept in (None, shape.key_value_heads)
    fits = shape.heads % shape.key_value_heads == 0 and shape.group <= group and shape.key_value_heads <= groups
    assert (problems == []) == fits


def test_an_encoder_has_no_groups_and_no_measured_layers(tmp_path: Path) -> None:
    student = {"layer_importance": "kl", "key_value_heads": 1}
    problems = problems_of(tmp_path, student=student)
    assert any("student.layer_importance: kl is for causal language models" in line for line in problems)
    assert any("student.key_value_heads: only causal language models have them" in line for line in problems)
