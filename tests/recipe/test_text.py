from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.recipe.text import MAX_DEPTH, Word, parse, write


def messages(text: str) -> list[str]:
    return [message for _, message in parse(text, "r.yaml").problems]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("3", 3),
        ("010", 10),
        ("0x1F", 31),
        ("30_000", 30000),
        ("1_2", "1_2"),
        ("-.inf", -math.inf),
        ("~", None),
        ("", None),
        ("True", True),
        ('"true"', "true"),
        ("2026-11-24", "2026-11-24"),
        ("12:30", "12:30"),
        ("${HOME}", "${HOME}"),
    ],
)
def test_scalars_follow_yaml_1_2(written: str, value: object) -> None:
    read = parse(f"a: {written}", "r").data["a"]
    assert read == value
    assert type(read) is type(value)


def test_an_unquoted_off_is_a_word_and_a_quoted_one_is_text() -> None:
    read = parse('a: off\nb: "off"', "r").data
    assert isinstance(read["a"], Word)
    assert not read["a"].switch
    assert not isinstance(read["b"], Word)


def test_tags_aliases_duplicates_and_odd_keys_are_all_reported_with_their_lines() -> None:
    text = "a: !!python/object/apply:os.system [ls]\nb: &x [1]\nc: *x\na: 2\n? [1]\n: 3\n"
    found = messages(text)
    assert [message.partition("  ")[0] for message in found] == ["r.yaml:1", "r.yaml:3", "r.yaml:4", "r.yaml:5"]
    assert "!!python/object/apply:os.system" in found[0]
    assert '"*x"' in found[1]
    assert "stands twice (first on line 1)" in found[2]


def test_an_alias_bomb_is_refused_at_once() -> None:
    bomb = "a: &a [x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
    )
    assert len(messages(bomb)) == 81


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: c: d", 2, "mapping values"),
        ("a:\n\t- b", 2, "spaces, not tabs"),
        ("a: [1,", 1, "not valid YAML"),
        ("a: 1\n---\nb: 2", 2, "single document"),
        ("a: 1\nb: \x07", 2, "U+0007"),
        ("[" * (MAX_DEPTH + 1), 1, "levels of nesting"),
    ],
)
def test_a_syntax_error_names_line_and_cause(text: str, line: int, words: str) -> None:
    (message,) = messages(text)
    assert message.startswith(f"r.yaml:{line}  ")
    assert words in message


def test_a_syntax_error_shows_the_line() -> None:
    assert "    b: c: d\n        ^" in messages("a: 1\nb: c: d")[0]


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | st.text(max_size=12)
    | st.sampled_from(["off", "No", "1e-4", "010", "~", "=", "<<", "0o7", "30_000", "1:30", "2026-11-24", "&a", "*a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=6), plain, max_size=4))
def test_what_is_written_is_read_back(data: dict[str, object]) -> None:
    parsed = parse(write(data), "r")
    assert parsed.problems == []
    assert parsed.data == data
