"""Written answers: what they say in the end, which of them are right, how many long ones are taken."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.data.traces import final_answer, mix, same_answer, verified
from attar.errors import DataError

quick = settings(max_examples=100, derandomize=True)


@pytest.mark.parametrize(
    ("trace", "answer"),
    [
        (r"First \boxed{3}. No: \boxed{\frac{1}{2}}, done.", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"It is \boxed{ 42 }." + "\nThank you.", "42"),
        ("Let me see.\n\n 42 \n\n", "42"),
        ('{\n  "city": "Oslo"\n}', '{\n  "city": "Oslo"\n}'),
        (r"<think>Is it \boxed{7}?</think>" + "\nIt is\n8", "8"),
        (r"Is it \boxed{7}?</think> 8", "8"),
    ],
)
def test_final_answer(trace: str, answer: str) -> None:
    assert final_answer(trace) == answer


@pytest.mark.parametrize(
    "trace",
    [
        pytest.param(r"<think>Maybe \boxed{7}, but let me", id="in an open thought"),
        pytest.param(r"So \boxed{3}, or rather \boxed{\frac{1}{2", id="in an open box"),
        pytest.param("<think>It is 7.</think>\n", id="after the thought"),
        pytest.param("", id="before it began"),
    ],
)
def test_trap_a_trace_cut_off_has_no_answer(trace: str) -> None:
    assert final_answer(trace) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a  b", " a b\n", True),
        ("0.50", "0.5", True),
        ("1e2", "100", True),
        ('{"a": 1, "b": [2.0, null]}', '{"b": [2, null], "a": 1.0}', True),
        ("1", "true", False),
        ('"1"', "1", False),
        ("[1, 2]", "[2, 1]", False),
        ("1/2", "0.5", False),
        ("0.1000000000000000055", "0.1", False),
        ("NaN", "NaN", True),
        ("NaN", "null", False),
        ("Oslo", "oslo", False),
        ("[" * 10_000, "{", False),
        ("1e99999999999999999999", "1", False),
    ],
)
def test_same_answer(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same_answer(other, one) is same


@quick
@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v, max_size=3)))
def test_json_is_the_same_however_it_is_spaced(value: object) -> None:
    assert same_answer(json.dumps(value), json.dumps(value, indent=3))


def test_verified() -> None:
    traces = [r"\boxed{1}", r"\boxed{2}", r"<think>\boxed{3}", "so\n4.0"]
    assert verified(traces, ["1", "1", "3", "4"]).tolist() == [0, 3]
    assert verified(traces, ["1", "1", "3", "4"], equal=lambda one, other: one != other).tolist() == [1, 3]
    assert verified([], []).tolist() == []
    with pytest.raises(DataError, match="4 traces, but 1 answers"):
        verified(traces, ["1"])


@quick
@given(
    long=st.integers(1, 40),
    short=st.integers(1, 40),
    percent=st.integers(0, 100),
    seed=st.integers(0, 2**31),
)
def test_mix_is_the_largest_one_with_the_share(long: int, short: int, percent: int, seed: int) -> None:
    rows = [("long", i) for i in range(long)], [("short", i) for i in range(short)]
    mixed = mix(*rows, share=percent / 100, seed=seed)
    taken = sum(kind == "long" for kind, _ in mixed)
    assert len(set(mixed)) == len(mixed)
    assert abs(100 * taken - percent * len(mixed)) <= 50
    more = len(mixed) + 1
    assert percent * more > 100 * long or (100 - percent) * more > 100 * short
    assert mixed == mix(*rows, share=percent / 100, seed=seed)


def test_mix_shuffles_and_takes_one_side_alone_at_the_ends() -> None:
    long, short = list(range(100)), list(range(100, 200))
    assert sorted(mix(long, [], share=1, seed=0)) == long
    assert sorted(mix([], short, share=0, seed=0)) == short
    mixed = mix(long, short, share=0.2, seed=0)
    assert (len(mixed), sum(row < 100 for row in mixed)) == (125, 25)
    assert mixed != sorted(mixed) != mix(long, short, share=0.2, seed=1)


def test_mix_names_what_is_missing() -> None:
    with pytest.raises(DataError, match=r"share is 0\.2, but there are no long rows"):
        mix([], [1], share=0.2, seed=0)
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        mix([1], [2], share=1.5, seed=0)
