"""Chats: what is a chat, what is written, and what is refused with its row and message."""

from __future__ import annotations

import json

import pytest

from attar.data.chats import written_chats
from attar.data.raw import RawSplit
from attar.errors import DataError

CHAT = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "the cät", "name": "x"}]


def written(cell: object) -> list[str]:
    return written_chats(RawSplit("rows.jsonl", {"chat": [cell]}), "chat")


@pytest.mark.parametrize("cell", [CHAT, json.dumps(CHAT), tuple(CHAT)])
def test_a_chat_is_a_list_or_its_json(cell: object) -> None:
    (line,) = written(cell)
    assert json.loads(line) == [{"role": one["role"], "content": one["content"]} for one in CHAT]
    assert "ä" in line


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("[1", "is no JSON"),
        (7, "got 7"),
        ([], "got []"),
        (["hello"], "message 0: a message has `role` and `content`, got 'hello'"),
        ([{"role": "user"}], "message 0: a message has"),
        ([{"role": "bot", "content": "a"}], "message 0: role 'bot' is not known. Allowed: system, user"),
        ([{"role": "user", "content": ["a"]}], "content must be text, got list"),
        (CHAT[:1], "no message of the assistant has words in it"),
        ([{"role": "assistant", "content": "  "}], "no message of the assistant has words in it"),
    ],
)
def test_what_is_no_chat_is_named(cell: object, told: str) -> None:
    with pytest.raises(DataError) as caught:
        written(cell)
    assert 'rows.jsonl, row 0, column "chat"' in str(caught.value)
    assert told in str(caught.value)
