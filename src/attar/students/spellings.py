"""How a token would be spelled if the vocabulary lacked it: what subword dropout puts in its place.

Words that a reduced vocabulary has never seen reach the student in short pieces. A student that meets such pieces in
training reads them; one that never does is misled by them. Sources: BPE-dropout (arXiv:1910.13267) and
MaxMatch-dropout for WordPiece (arXiv:2209.04126); here one token is left out at a time.
"""

from __future__ import annotations

import json
import math
from typing import Any, cast


def shorter_spellings(tokenizer: Any) -> list[tuple[int, ...]]:
    """For each id the ids that spell its text without it; (id,) where nothing else does, and for special tokens.

    `tokenizer`: one of Transformers. Without a fast (`tokenizers`) backend no token has another spelling.
    """
    if not getattr(tokenizer, "is_fast", False):
        return [(index,) for index in range(len(tokenizer))]
    model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids: dict[str, int] = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    found: list[tuple[int, ...]] = [(index,) for index in range(max(ids.values()) + 1)]
    special = set(tokenizer.all_special_ids)
    for token, spelled in _spelled(model, ids):
        if spelled and ids[token] not in special:
            found[ids[token]] = spelled
    return found


def _spelled(model: dict[str, Any], ids: dict[str, int]) -> list[tuple[str, tuple[int, ...]]]:
    match model["type"]:
        case "WordPiece":
            prefix: str = model["continuing_subword_prefix"]
            return [(token, _longest_first(token, prefix, ids)) for token in model["vocab"]]
        case "BPE":
            pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in reversed(model["merges"]))
            return [("".join(pair), tuple(ids[part] for part in pair)) for pair in pairs if {*pair} <= ids.keys()]
        case "Unigram":
            scores = {cast("str", piece): float(score) for piece, score in model["vocab"]}
            return [(token, _most_likely(token, scores, ids)) for token in scores]
        case _:
            return []


def _longest_first(token: str, prefix: str, ids: dict[str, int]) -> tuple[int, ...]:
    """WordPiece's own rule, without `token`; empty where it does not come through."""
    inside = token.startswith(prefix)
    word = token.removeprefix(prefix)
    spelled: list[int] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = (prefix if inside or start else "") + word[start:end]
            if piece in ids and piece != token:
                break
        else:
            return ()
        spelled.append(ids[piece])
        start = end
    return tuple(spelled)


def _most_likely(token: str, scores: dict[str, float], ids: dict[str, int]) -> tuple[int, ...]:
    """The path of the largest summed score over pieces other than `token`; empty where there is none."""
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for end in range(1, len(token) + 1):
        paths = [
            (best[start][0] + scores[piece], (*best[start][1], ids[piece]))
            for start in range(end)
            if (piece := token[start:end]) in scores and piece != token
        ]
        best.append(max(paths, default=(-math.inf, ())))
    return best[-1][1] if math.isfinite(best[-1][0]) else ()
