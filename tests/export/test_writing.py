"""How a language model's file is held to its checkpoint: place by place, by bounds, on prompts of its own data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.export.language import bounds, missed
from attar.export.writing import compare_written, prompts_of, spread
from attar.facts import ContinuedFacts, ParityFacts, StepFacts
from attar.recipe.outcome import GGUFSpec, OnnxSpec
from attar.tasks.sequences import Sequences

tokens = st.lists(st.integers(0, 3), max_size=6)


def sequences(*rows: tuple[int, int]) -> Sequences:
    """Of each row its length and its first learned place."""
    return Sequences(
        inputs={"input_ids": [np.arange(length) + 10 for length, _ in rows]},
        lengths=np.array([length for length, _ in rows]),
        labels=np.array([length - first for length, first in rows]),
        learned=[np.arange(length) >= first for length, first in rows],
        owners=np.arange(len(rows)),
    )


@given(st.lists(st.tuples(tokens, tokens), max_size=5))
def test_places_are_counted_one_by_one(pairs: list[tuple[list[int], list[int]]]) -> None:
    found = compare_written([one for one, _ in pairs], [other for _, other in pairs])
    whole = [(a, b) for one, other in pairs for a, b in
             zip(one + [None] * (6 - len(one)), other + [None] * (6 - len(other)), strict=True)
             if a is not None or b is not None]  # fmt: skip
    assert found.tokens == len(whole)
    assert found.same == pytest.approx(sum(a == b for a, b in whole) / len(whole) if whole else 1.0)
    assert found.unchanged == sum(one == other for one, other in pairs)
    assert (found.first_difference is None) == (found.unchanged == found.prompts)


def test_the_first_difference_may_be_an_end() -> None:
    assert compare_written([[1, 2, 3], [4]], [[1, 2], [4]]).first_difference == 2
    assert compare_written([[1, 2, 3], [5, 5]], [[1, 2, 3], [5, 6]]).first_difference == 1


def test_prompts_end_where_learning_begins_or_halfway() -> None:
    found = prompts_of(sequences((6, 1), (6, 4), (1, 1), (3, 1)))
    assert found == [[10, 11, 12], [10, 11, 12, 13], [10]]
    assert len(prompts_of(sequences(*[(4, 2)] * 90))) == 16
    assert spread(sequences(*[(4, 2)] * 5), 3) == [0, 2, 4]


def facts(**changes: object) -> ParityFacts:
    same = {"max_abs": 0.0, "agreement": 1.0, "n": 10, "bound_max_abs": 1e-3, "bound_agreement": 0.9}
    return ParityFacts.model_validate({**same, **changes})


def test_each_missed_bound_is_told() -> None:
    assert missed(facts()) == []
    steps = StepFacts(max_abs=0.5, agreement=0.5, kl=0.0, n=7)
    other = ContinuedFacts(prompts=2, tokens=8, same=0.25, unchanged=0, first_difference=1)
    told = missed(facts(cached=steps, written=other, bound_written=0.5))
    assert len(told) == 3
    assert "up to 0.5 through the cache" in told[0]
    assert "0.5000 of 7 tokens through the cache" in told[1]
    assert "0.2500 of 8 written tokens" in told[2]
    assert missed(facts(written=other)) == []
    assert len(missed(facts(max_abs=float("nan"), agreement=float("nan")))) == 2


def test_bounds_are_the_specs_or_the_precisions() -> None:
    assert bounds(OnnxSpec(kind="onnx")) == (1e-2, 0.999, 0.9)
    assert bounds(OnnxSpec(kind="onnx", precision="int4", max_abs=2.0, min_written=0.1)) == (2.0, 0.6, 0.1)
    assert bounds(GGUFSpec(kind="gguf", precision="q8_0", min_agreement=0.5)) == (None, 0.5, None)
