"""Very long texts: cut the characters that no model will see before the tokenizer reads them.

Tokens are counted, not guessed: a text is cut only where what is left still gives more tokens than the limit, and at
white space where there is some, so that the tokens kept are those of the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CHARACTERS_A_TOKEN = 16
_MARGIN = 8
_GROWTH = 4


def shortened(texts: Sequence[str], tokenizer: Any, limit: int) -> list[str]:
    """The texts, each cut to a head that still has more than `limit` tokens where the text is very long."""
    if tokenizer.truncation_side != "right":
        return list(texts)
    start = limit * _CHARACTERS_A_TOKEN
    return [text if len(text) <= start else _head(text, tokenizer, limit, start) for text in texts]


def _head(text: str, tokenizer: Any, limit: int, size: int) -> str:
    while size < len(text):
        head = text[:size]
        space = max(head.rfind(" "), head.rfind("\n"))
        head = head[:space] if space > 0 else head
        ids = tokenizer(head, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        if len(ids) > limit + _MARGIN:
            return head
        size *= _GROWTH
    return text
