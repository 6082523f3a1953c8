"""Answers as JSON: how columns become members, in which order, and which cells are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from attar.data.json_answers import json_answers
from attar.data.raw import RawSplit
from attar.errors import DataError
from attar.recipe.task import CausalLMSpec

PIECES = [
    ["play ", None],
    ["Cita Romántica ", "playlist"],
    [" by ", None],
    ["me", "owner"],
    [" and ", None],
    ["you", "owner"],
]


def answers(fields: dict[str, Any], **columns: Any) -> list[str]:
    spec = CausalLMSpec.model_validate({"kind": "causal_lm", "prompt": "text", "json_fields": fields})
    return json_answers(RawSplit("rows.jsonl", {"text": ["?"], **columns}), spec)


@pytest.mark.parametrize("cell", [PIECES, json.dumps(PIECES), tuple(map(tuple, PIECES))])
def test_named_pieces_become_members_in_the_order_of_the_text(cell: object) -> None:
    found = answers({"intent": "label", "slots": {"spans": "spans"}}, label=["Play"], spans=[cell])
    assert found == ['{"intent":"Play","slots":{"playlist":"Cita Romántica","owner":["me","you"]}}']


def test_members_stand_in_the_order_of_the_recipe_and_keep_their_kind() -> None:
    columns = {"a": [1], "b": [None], "c": [True], "d": [[1, {"x": 2.5}]], "e": ["1"]}
    assert answers({"z": "e", "y": "d", "x": "c", "w": "b", "v": "a"}, **columns) == [
        '{"z":"1","y":[1,{"x":2.5}],"x":true,"w":null,"v":1}'
    ]


def test_an_id_of_a_class_is_written_as_its_name() -> None:
    rows = Dataset.from_dict(
        {"text": ["?"], "label": [1]},
        features=Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])}),
    )
    spec = CausalLMSpec(kind="causal_lm", prompt="text", json_fields={"said": "label"})
    assert json_answers(RawSplit("rows", rows), spec) == ['{"said":"yes"}']


@given(st.lists(st.tuples(st.text(), st.none() | st.text(max_size=3)), max_size=6))
def test_no_named_piece_is_lost(pieces: list[tuple[str, str | None]]) -> None:
    (line,) = answers({"slots": {"spans": "spans"}}, spans=[pieces])
    slots = json.loads(line)["slots"]
    found = [(name, piece) for name, held in slots.items() for piece in (held if isinstance(held, list) else [held])]
    assert sorted(found) == sorted((name, piece.strip()) for piece, name in pieces if name is not None)


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("[1", "row 0, column \"spans\": '[1' is no JSON. The pieces of a text are a list of pairs"),
        (7, "got 7"),
        ({"a": 1}, "got {'a': 1}"),
        ([["a", None, 1]], "piece 0 is ['a', None, 1]"),
        ([["a", None], "bc"], "piece 1 is 'bc'"),
        ([[1, "x"]], "piece 0 is [1, 'x']"),
        ([["a", 1]], "piece 0 is ['a', 1]"),
        ([["\ud800", "x"]], "cannot stand in JSON"),
    ],
)
def test_what_is_no_list_of_pieces_is_refused(cell: object, told: str) -> None:
    with pytest.raises(DataError) as found:
        answers({"slots": {"spans": "spans"}}, spans=[cell])
    assert told in str(found.value)


@pytest.mark.parametrize("cell", [float("nan"), b"bytes", "\ud800"])
def test_what_json_cannot_hold_is_refused(cell: object) -> None:
    with pytest.raises(DataError, match=r'rows\.jsonl, row 0, column "label": .* cannot stand in JSON'):
        answers({"intent": "label"}, label=[cell])


def test_an_absent_column_is_told_with_its_setting() -> None:
    with pytest.raises(DataError, match=r"no column \"labell\" \(task.json_fields.intent\). Did you mean \"label\"\?"):
        answers({"intent": "labell"}, label=["x"])
    with pytest.raises(DataError, match=r"\(task.json_fields.slots.spans\)"):
        answers({"slots": {"spans": "nowhere"}}, label=["x"])
