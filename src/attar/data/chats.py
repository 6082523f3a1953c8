"""Chats: lists of messages, checked and written as one line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from attar.data.raw import RawSplit
from attar.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
Message = dict[str, str]
"""`role` and `content`."""


def written_chats(raw: RawSplit, column: str) -> list[str]:
    """The chats of a column as JSON, `[{"role": …, "content": …}, …]`. Raises DataError that names row and message.

    A cell is a list of messages or that list as JSON. At least one message is the assistant's, with words in it.
    """
    return [
        json.dumps(_chat(cell, f'{raw.place}, row {row}, column "{column}"'), ensure_ascii=False)
        for row, cell in enumerate(raw.values(column))
    ]


def _chat(cell: object, place: str) -> list[Message]:
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise DataError(f"{place}: {cell!r:.60} is no JSON. A chat is a list of {{role, content}}.") from None
    if not isinstance(cell, Sequence) or isinstance(cell, str) or not cell:
        raise DataError(f"{place}: a chat is a list of {{role, content}}, got {cell!r:.60}.")
    chat = [_message(one, f"{place}, message {number}") for number, one in enumerate(cast("Sequence[Any]", cell))]
    if not any(one["role"] == "assistant" and one["content"].strip() for one in chat):
        raise DataError(f"{place}: no message of the assistant has words in it, so there is nothing to learn.")
    return chat


def _message(cell: object, place: str) -> Message:
    if not isinstance(cell, Mapping) or not {"role", "content"} <= cast("Mapping[str, Any]", cell).keys():
        raise DataError(f"{place}: a message has `role` and `content`, got {cell!r:.60}.")
    message = cast("Mapping[str, Any]", cell)
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise DataError(f"{place}: role {role!r:.30} is not known. Allowed: {', '.join(ROLES)}.")
    if not isinstance(content, str):
        raise DataError(f"{place}: content must be text, got {type(content).__name__}. Other parts are not read.")
    return {"role": str(role), "content": content}
