"""Cutting a tokenizer down to the tokens that the data uses, by the rules of its own model.

The reduced tokenizer spells every counted text exactly as the full one did, and any other text with a fallback:

- WordPiece matches the longest piece first, so the pieces that the full vocabulary chose stay the longest ones; single
  characters (bare and continuing) of ASCII and of the scripts that the texts use remain as fallback.
- BPE applies merges by rank; a kept token brings the merges that make it, and their parents; the base alphabet remains.
- Unigram takes the best path; the best path of a counted text is made of kept pieces; single characters (of the same
  scripts) and bytes remain.
- WordLevel keeps what was seen.
"""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from attar.errors import PlanError

_BATCH = 4096


@dataclass(frozen=True)
class Reduced:
    """A reduced tokenizer. `kept[i]` is the old id of the new token i; `counts[i]` how often the texts used it."""

    tokenizer: Any
    kept: list[int]
    counts: list[int]


def count_tokens(tokenizer: Any, texts: Sequence[str]) -> Counter[int]:
    """How often each token id occurs in the texts, special tokens included."""
    backend = _unbounded(tokenizer.backend_tokenizer)
    counts: Counter[int] = Counter()
    for start in range(0, len(texts), _BATCH):
        for encoding in backend.encode_batch_fast(list(texts[start : start + _BATCH])):
            counts.update(encoding.ids)
    return counts


def reduce_vocabulary(tokenizer: Any, texts: Sequence[str], min_count: int = 1) -> Reduced:
    """Keep special tokens, tokens seen at least `min_count` times, and the fallback. Order of ids is preserved.

    Raises PlanError for tokenizers without a fast (`tokenizers`) backend or of an unknown model.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise PlanError(
            f"student.vocabulary.keep: {type(tokenizer).__name__} has no fast backend to reduce. Use `keep: all`."
        )
    counts = count_tokens(tokenizer, texts)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    model = backend["model"]
    ids = dict(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True))
    names = {index: token for token, index in ids.items()}
    seen = {names[index] for index, count in counts.items() if count >= min_count}
    added = {token["content"] for token in backend["added_tokens"]}
    keep = seen | added | _fallback(model, ids, _scripts(seen - added))
    if model["type"] == "BPE":
        keep = _with_parents(model, keep)
    kept = sorted(ids[token] for token in keep if token in ids)
    new_ids = {names[old]: new for new, old in enumerate(kept)}
    _shrink_model(model, new_ids)
    for token in backend["added_tokens"]:
        token["id"] = new_ids[token["content"]]
    backend["post_processor"] = _renumber(backend.get("post_processor"), new_ids)
    backend["truncation"] = backend["padding"] = None
    return Reduced(_reload(tokenizer, backend), kept, [counts.get(old, 0) for old in kept])


def _unbounded(backend: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _script(character: str) -> str:
    """The script of a character as its Unicode name begins: LATIN, CYRILLIC, CJK, …; symbols stand for themselves."""
    return unicodedata.name(character, character).split(" ")[0] if character.isalpha() else character


def _scripts(tokens: Iterable[str]) -> set[str]:
    return {_script(character) for token in tokens for character in token}


def _fallback(model: dict[str, Any], ids: dict[str, int], scripts: set[str]) -> set[str]:
    def serves(character: str) -> bool:
        return character.isascii() or _script(character) in scripts

    match model["type"]:
        case "WordPiece":
            prefix = model["continuing_subword_prefix"]
            bare = {t.removeprefix(prefix): t for t in ids if t.startswith(prefix)}
            return {t for t in ids if len(t) == 1 and serves(t)} | {
                t for character, t in bare.items() if len(character) == 1 and serves(character)
            }
        case "BPE":
            made = {"".join(_pair(merge)) for merge in model["merges"]}
            return {t for t in ids if t not in made}
        case "Unigram":
            pieces = [cast("str", piece) for piece, _ in model["vocab"]]
            single = {p for p in pieces if (len(p) == 1 and serves(p)) or (p.startswith("<0x") and p.endswith(">"))}
            return single | {pieces[model["unk_id"]]} if model.get("unk_id") is not None else single
        case "WordLevel":
            return {model["unk_token"]} & set(ids)
        case other:
            raise PlanError(f"student.vocabulary.keep: cannot reduce a {other} tokenizer. Use `keep: all`.")


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _with_parents(model: dict[str, Any], keep: set[str]) -> set[str]:
    parents: dict[str, list[tuple[str, str]]] = {}
    for merge in model["merges"]:
        left, right = _pair(merge)
        parents.setdefault(left + right, []).append((left, right))
    closed, todo = set(keep), list(keep)
    while todo:
        for pair in parents.get(todo.pop(), []):
            for part in pair:
                if part not in closed:
                    closed.add(part)
                    todo.append(part)
    return closed


def _shrink_model(model: dict[str, Any], new_ids: dict[str, int]) -> None:
    if model["type"] == "Unigram":
        unknown = None if model.get("unk_id") is None else model["vocab"][model["unk_id"]][0]
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] in new_ids]
        if unknown is not None:
            model["unk_id"] = next(i for i, entry in enumerate(model["vocab"]) if entry[0] == unknown)
        return
    model["vocab"] = {token: new_ids[token] for token in model["vocab"] if token in new_ids}
    if model["type"] == "BPE":
        model["merges"] = [m for m in model["merges"] if {*_pair(m), "".join(_pair(m))} <= new_ids.keys()]


def _renumber(processor: Any, new_ids: dict[str, int]) -> Any:
    """Give a post-processor's special tokens their new ids, wherever they stand in its JSON."""
    if isinstance(processor, list):
        items = cast("list[Any]", processor)
        if len(items) == 2 and isinstance(items[0], str) and isinstance(items[1], int):
            return [items[0], new_ids[items[0]]]
        return [_renumber(item, new_ids) for item in items]
    if not isinstance(processor, dict):
        return processor
    fields = cast("dict[str, Any]", processor)
    if {"id", "ids", "tokens"} <= fields.keys():
        return {**fields, "ids": [new_ids[token] for token in fields["tokens"]]}
    return {key: _renumber(value, new_ids) for key, value in fields.items()}


def _reload(tokenizer: Any, backend: dict[str, Any]) -> Any:
    """The same tokenizer class around a new backend, through its own files so that it saves and loads as usual."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        Path(folder, "tokenizer.json").write_text(json.dumps(backend, ensure_ascii=False), encoding="utf-8")
        settings_file = Path(folder, "tokenizer_config.json")
        settings = json.loads(settings_file.read_text(encoding="utf-8"))
        settings.pop("added_tokens_decoder", None)
        settings_file.write_text(json.dumps(settings), encoding="utf-8")
        for name in ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json"):
            Path(folder, name).unlink(missing_ok=True)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Ids of the special tokens that model configurations name (pad, bos, eos), where the tokenizer has them."""
    found = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
    return {name: index for name, index in found.items() if index is not None}
