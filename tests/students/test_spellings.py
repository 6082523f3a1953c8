"""The spelling of a token without itself is what its tokenizer gives once the token is gone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from attar.students.spellings import shorter_spellings
from students.test_vocabulary import FULL, KINDS


def without(tokenizer: Any, token: str) -> Tokenizer:
    """The tokenizer's model without a token and, in BPE, without the merges that make it."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [[p, s] if p != token else [f"{p}\u0000gone", -1e9] for p, s in model["vocab"]]
    else:
        index = model["vocab"].pop(token)
        model["vocab"][f"{token}\u0000gone"] = index
    if model["type"] == "BPE":
        model["merges"] = [m for m in model["merges"] if "".join(m) != token and token not in m]
    return Tokenizer.from_str(json.dumps(content))


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_without_the_token_spells_alike(kind: str) -> None:
    tokenizer = FULL[kind]
    names = {i: t for t, i in tokenizer.get_vocab().items()}
    spelled = shorter_spellings(tokenizer)
    assert len(spelled) == len(names)
    tried = 0
    for index, ids in enumerate(spelled):
        if len(ids) == 1:
            continue
        assert index not in ids
        pieces = [names[i].removeprefix("##") for i in ids]
        assert "".join(pieces) == names[index].removeprefix("##")
        if kind != "wordpiece" or not names[index].startswith("##"):
            model = without(tokenizer, names[index]).model
            assert [t.id for t in model.tokenize(names[index])] == list(ids)
            tried += 1
    assert tried > 20


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_and_single_characters_stay(kind: str) -> None:
    tokenizer = FULL[kind]
    spelled = shorter_spellings(tokenizer)
    for token, index in tokenizer.get_vocab().items():
        if index in tokenizer.all_special_ids or len(token) == 1:
            assert spelled[index] == (index,)


def test_a_tokenizer_without_backend_has_no_other_spellings() -> None:
    class Slow:
        is_fast = False

        def __len__(self) -> int:
            return 3

    assert shorter_spellings(Slow()) == [(0,), (1,), (2,)]
