"""How many tokens a reduced vocabulary will keep, estimated without a tokenizer library.

For WordPiece the estimate follows the tokenizer's rules (lower case, words and punctuation, longest piece first) over
the training texts; it may differ from the real count by a few rare characters, and by what validation cuts off train.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from attar.plan.result import Size

_WORDS = re.compile(r"\w+|[^\w\s]")
_SLACK = 0.1
_FLOOR = 100


def estimate_kept(vocabulary: Vocabulary | None, texts: Iterable[str], whole: bool, min_count: int, total: int) -> Size:
    """Tokens that `vocabulary.keep: used` keeps of `total`; `whole` says that `texts` are all training texts."""
    if vocabulary is None or vocabulary.kind != "WordPiece":
        return Size(
            min(_FLOOR, total), total, total, "an upper bound: only the tokenizer can tell which tokens are used"
        )
    prefix, tokens = vocabulary.prefix, vocabulary.tokens
    counts: dict[str, int] = {}
    for text in texts:
        for word in _WORDS.findall(_folded(text) if vocabulary.lower else text):
            counts[word] = counts.get(word, 0) + 1
    if not counts:
        return Size(min(_FLOOR, total), total, total, "an upper bound: the texts cannot be seen from here")
    used: dict[str, int] = {}
    for word, count in counts.items():
        for piece in _pieces(word, tokens, prefix):
            used[piece] = used.get(piece, 0) + count
    kept = {piece for piece, count in used.items() if count >= min_count}
    scripts = {_script(character) for piece in kept for character in piece}
    fallback = {
        t
        for t in tokens
        if len(single := t.removeprefix(prefix)) == 1 and (single.isascii() or _script(single) in scripts)
    }
    special = {t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if t in tokens}
    likely = min(len(kept | fallback | special), total)
    if not whole:
        return Size(len(fallback | special), total, likely, "estimated from a sample of the texts")
    low, high = int(likely * (1 - _SLACK)), min(int(likely * (1 + _SLACK)) + _FLOOR, total)
    return Size(low, high, likely, "estimated from the training texts")


def _script(character: str) -> str:
    """LATIN, CYRILLIC, CJK, …; symbols stand for themselves."""
    return unicodedata.name(character, character).split(" ")[0] if character.isalpha() else character


def _pieces(word: str, vocabulary: dict[str, int], prefix: str) -> list[str]:
    pieces: list[str] = []
    start = 0
    while start < len(word):
        end = len(word)
        while end > start:
            piece = word[start:end] if start == 0 else prefix + word[start:end]
            if piece in vocabulary:
                pieces.append(piece)
                break
            end -= 1
        if end == start:
            return []
        start = end
    return pieces


def _folded(text: str) -> str:
    """Lower case without accents, as uncased WordPiece normalisers do."""
    text = text.lower()
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


@dataclass(frozen=True)
class Vocabulary:
    """What tokenizer.json says of a tokenizer's model."""

    kind: str
    tokens: dict[str, int]
    prefix: str
    lower: bool
    size: int


def read_vocabulary(folder: Path | None) -> Vocabulary | None:
    """The vocabulary of a model folder; None where there is no readable tokenizer.json."""
    if folder is None:
        return None
    try:
        content = cast("dict[str, Any]", json.loads((folder / "tokenizer.json").read_bytes()))
        model = content["model"]
        vocabulary = model["vocab"]
        tokens = {str(t): i for t, i in vocabulary.items()} if isinstance(vocabulary, dict) else {}
        added = sum(1 for token in content.get("added_tokens", []) if token["content"] not in tokens)
        return Vocabulary(
            kind=str(model.get("type")),
            tokens=tokens,
            prefix=str(model.get("continuing_subword_prefix", "##")),
            lower=bool((content.get("normalizer") or {}).get("lowercase", False)),
            size=len(vocabulary) + (added if tokens else 0),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
