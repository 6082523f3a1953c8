"""A byte-level BPE tokenizer as a GGUF file's metadata, refused where llama.cpp would spell texts otherwise.

llama.cpp splits texts by its own code, which a file chooses by name. So a tokenizer is written only if its way to split
is known by a name (`attar.teachers.gguf_tokenizer.SPLITS`), and if it does nothing that llama.cpp cannot.
"""

from __future__ import annotations

import json
from typing import Any, cast

from tokenizers import Tokenizer, models

from attar.errors import ExportError
from attar.teachers.gguf_tokenizer import CONTROL, NAMED, SPLITS, USER_DEFINED, Split

_NORMAL, _UNUSED = 1, 5
_WRITERS = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
_NOTHING = (None, "", False)


def write_tokenizer(writer: Any, tokenizer: Any, *, vocabulary: int, ends: list[int]) -> None:
    """Give a `gguf.GGUFWriter` all that llama.cpp needs to spell texts as `tokenizer` does, chat template included.

    `vocabulary`: rows of the embeddings; ids without a token are marked unused. `ends`: tokens at which the model
    stops; the first special one besides the tokenizer's own end becomes the end of a turn. Raises ExportError.
    """
    told = _backend(tokenizer)
    split = _split(told, tokenizer)
    tokens, kinds = _tokens(told, tokenizer, vocabulary)
    first, last = _around(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split.names[0])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = cast("list[Any]", told["model"]["merges"])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for name, short in NAMED.items():
        index = getattr(tokenizer, f"{name}_id")
        if index is not None:
            getattr(writer, f"add_{_WRITERS[short]}_token_id")(index)
    turns = [index for index in ends if index != tokenizer.eos_token_id and kinds[index] == CONTROL]
    if turns:
        writer.add_eot_token_id(turns[0])
    writer.add_add_bos_token(first)
    writer.add_add_eos_token(last)
    writer.add_add_space_prefix(False)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        named = cast("dict[str, str]", template)
        writer.add_chat_template([{"name": name, "template": text} for name, text in sorted(named.items())])
    elif template:
        writer.add_chat_template(template)


def _backend(tokenizer: Any) -> dict[str, Any]:
    """The tokenizer as its tokenizer.json tells it, if it is a BPE that does nothing besides merging."""
    if not getattr(tokenizer, "is_fast", False):
        raise _refusal(tokenizer, "has no fast backend (tokenizers)")
    told = cast("dict[str, Any]", json.loads(tokenizer.backend_tokenizer.to_str()))
    model = told["model"]
    if model["type"] != "BPE":
        raise _refusal(tokenizer, f"is a {model['type']}, not a byte-level BPE")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option) not in _NOTHING:
            raise _refusal(tokenizer, f"has the option {option}: {model[option]!r}")
    normalizer = told.get("normalizer")
    if normalizer is not None and normalizer.get("normalizers") != []:
        raise _refusal(tokenizer, f"normalizes texts ({normalizer['type']})")
    for added in told["added_tokens"]:
        odd = [flag for flag in ("lstrip", "rstrip", "single_word") if added.get(flag)]
        if odd:
            raise _refusal(tokenizer, f"has the added token {added['content']!r} with {odd[0]}")
    return told


def _split(told: dict[str, Any], tokenizer: Any) -> Split:
    """The way to split that the tokenizer has. Raises ExportError where it is none of those that llama.cpp knows."""
    own, whole = _plain(told["pre_tokenizer"]), bool(told["model"].get("ignore_merges"))
    for split in SPLITS:
        bare = Tokenizer(models.BPE())
        bare.pre_tokenizer = split.made()
        if own == _plain(json.loads(bare.to_str())["pre_tokenizer"]) and whole == split.whole:
            return split
    known = ", ".join(split.names[0] for split in SPLITS)
    raise _refusal(
        tokenizer,
        f"splits texts by {json.dumps(own)} (ignore_merges: {whole}), which is none of the ways that are known here by "
        f"llama.cpp's names ({known})",
    )


def _plain(splitter: Any) -> list[dict[str, Any]]:
    """A pre-tokenizer's steps in order, without what changes no token."""
    if splitter is None:
        return []
    steps = splitter["pretokenizers"] if splitter["type"] == "Sequence" else [splitter]
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]


def _tokens(told: dict[str, Any], tokenizer: Any, vocabulary: int) -> tuple[list[str], list[int]]:
    """Every id's token and its type."""
    ids = cast("dict[str, int]", tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True))
    if (most := max(ids.values(), default=-1)) >= vocabulary:
        raise _refusal(tokenizer, f"has the id {most}, but the model has embeddings for {vocabulary} only")
    added = {token["content"]: CONTROL if token["special"] else USER_DEFINED for token in told["added_tokens"]}
    tokens, kinds = [f"[PAD{index}]" for index in range(vocabulary)], [_UNUSED] * vocabulary
    for token, index in ids.items():
        tokens[index], kinds[index] = token, added.get(token, _NORMAL)
    if len(set(tokens)) < vocabulary:
        raise _refusal(tokenizer, "has a token spelled [PADn], the name of an id without token")
    return tokens, kinds


def _around(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the tokenizer begins and ends each text by a token of its own."""
    bare, full = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
    for first in (False, True):
        for last in (False, True):
            if full == [tokenizer.bos_token_id] * first + bare + [tokenizer.eos_token_id] * last:
                return first, last
    raise _refusal(tokenizer, f"spells {'a'!r} as {full}: with more than its begin and end tokens around it")


def _refusal(tokenizer: Any, what: str) -> ExportError:
    return ExportError(
        f"GGUF: the tokenizer ({type(tokenizer).__name__}) {what}; llama.cpp would read texts otherwise. Use another "
        "export, or a byte-level BPE tokenizer like SmolLM2's."
    )
