"""The tokenizer that a GGUF file describes, split and marked as llama.cpp does it.

A file holds tokens, merges and the name of a way to split texts before the merges; the way itself stands in
llama.cpp's source (src/llama-vocab.cpp, read as llama-cpp-python brings it). Transformers (5.24) reads such files too,
but splits by GPT-2's way where it does not know the name: "smollm", say, where digits then stand wrong after two
spaces. So byte-level vocabularies are built here; all others (SentencePiece) by Transformers.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from attar.errors import TeacherError
from attar.gguf_header import Header, damaged

CONTROL, USER_DEFINED = 3, 4
"""Token types of tokens that are looked for in the text before it is split: special ones, and plain added ones."""
NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""Transformers' names of special tokens, and the file's: tokenizer.ggml.NAME_token_id."""

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")


@dataclass(frozen=True)
class Split:
    """One way to split a text before the merges."""

    names: tuple[str, ...]
    """What files call it (tokenizer.ggml.pre); a written file has the first."""
    pattern: str | None = None
    """What a piece is; None: GPT-2's."""
    digits: bool = False
    """Every digit stands alone, whatever the pattern says."""
    whole: bool = False
    """A piece that is a token needs no merges (`ignore_merges`)."""
    begins: bool = False
    """The begin token is put first where the file does not say."""

    def made(self) -> pre_tokenizers.PreTokenizer:
        """It, as `tokenizers` has it."""
        parts: list[pre_tokenizers.PreTokenizer] = []
        if self.digits:
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        if self.pattern is not None:
            parts.append(pre_tokenizers.Split(Regex(self.pattern), behavior="isolated"))
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None))
        return parts[0] if len(parts) == 1 else pre_tokenizers.Sequence(parts)


SPLITS = (
    Split(("gpt-2", "phi-2", "mpt", "olmo", "trillion", "exaone4", "gigachat", "mellum", "granite-docling")),
    Split(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"), digits=True),
    Split(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        _LLAMA3,
        whole=True,
        begins=True,
    ),
    Split(("smaug-bpe", "dbrx"), _LLAMA3),
    Split(("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "hunyuan", "solar-open"), _QWEN2),
)
"""The ways that are known here; llama.cpp knows more."""


def read_tokenizer(header: Header) -> PreTrainedTokenizerBase:
    """The file's tokenizer: its special tokens, its begin and end tokens as the file says, and its chat template.

    Raises TeacherError where tokens and ids contradict each other or the way to split is not known; errors of
    `tokenizers` and Transformers pass.
    """
    if "tokenizer.ggml.tokens" not in header.values:
        raise TeacherError(f"{header.file}: holds no tokenizer. Use a file that has one (tokenizer.ggml.tokens).")
    tokenizer = _byte_level(header) if _said(header, "model") == "gpt2" else _by_transformers(header)
    template = _template(header)
    if template is not None:
        tokenizer.chat_template = template
    length = header.own("context_length")
    if isinstance(length, int):
        tokenizer.model_max_length = length
    return tokenizer


def special_id(header: Header, name: str) -> int | None:
    """The id of a special token by the file's name of it (bos, eos, eot, …). Raises TeacherError for one too large."""
    index = _said(header, f"{name}_token_id")
    count = len(_said(header, "tokens") or ())
    if index is not None and not (isinstance(index, int) and 0 <= index < count):
        raise damaged(header.file, f"its {name} token is number {index} of {count} tokens")
    return index


def _said(header: Header, key: str, default: Any = None) -> Any:
    return header.values.get(f"tokenizer.ggml.{key}", default)


def _byte_level(header: Header) -> PreTrainedTokenizerBase:
    tokens, kinds = cast("list[str]", _said(header, "tokens")), cast("list[int]", _said(header, "token_type", []))
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        raise damaged(header.file, f"{len(tokens) - len(ids)} of its tokens are there twice")
    split = _split(header)
    merges = [tuple(merge.split(" ")) for merge in _said(header, "merges", [])]
    if any(len(merge) != 2 for merge in merges):
        raise damaged(header.file, "one of its merges is not of two parts")
    pairs = cast("list[tuple[str, str]]", merges)
    backend = Tokenizer(models.BPE(vocab=ids, merges=pairs, ignore_merges=split.whole))
    backend.pre_tokenizer = split.made()
    backend.decoder = decoders.ByteLevel()
    marked = [(token, kind) for token, kind in zip(tokens, kinds, strict=False) if kind in (CONTROL, USER_DEFINED)]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token, kind in marked if kind == CONTROL])
    backend.add_tokens([AddedToken(token, normalized=False) for token, kind in marked if kind == USER_DEFINED])
    named = {name: special_id(header, short) for name, short in NAMED.items()}
    first = named["bos_token"] if _said(header, "add_bos_token", split.begins) else None
    last = named["eos_token"] if _said(header, "add_eos_token", False) else None
    if first is not None or last is not None:
        backend.post_processor = _ends(tokens, first, last)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        **{name: None if index is None else tokens[index] for name, index in named.items()},
    )


def _ends(tokens: list[str], first: int | None, last: int | None) -> processors.PostProcessor:
    """What puts a begin and an end token around each text."""
    found = [(name, index) for name, index in (("first", first), ("last", last)) if index is not None]
    special = [{"id": name, "ids": [index], "tokens": [tokens[index]]} for name, index in found]

    def around(text: str) -> list[str]:
        return [*["first"][: first is not None], text, *["last"][: last is not None]]

    second = [f"{part}:1" for part in around("$B")]
    return processors.TemplateProcessing(single=around("$A"), pair=[*around("$A"), *second], special_tokens=special)


def _split(header: Header) -> Split:
    name = _said(header, "pre")
    for split in SPLITS:
        if name in split.names:
            return split
    known = ", ".join(name for split in SPLITS for name in split.names)
    raise TeacherError(
        f"{header.file}: splits texts by {json.dumps(name)} (tokenizer.ggml.pre), which is not known here, and by "
        f"another way it would read them wrongly. Known are: {known}. Use the model's Transformers folder."
    )


def _by_transformers(header: Header) -> PreTrainedTokenizerBase:
    """By a link in a folder of its own: beside other files, Transformers would prefer those."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.gguf").symlink_to(header.file.resolve())
        return PreTrainedTokenizerFast.from_pretrained(folder, gguf_file="model.gguf", local_files_only=True)


def _template(header: Header) -> str | dict[str, str] | None:
    """The chat template; where there are several, all by name."""
    default = header.values.get("tokenizer.chat_template")
    names = header.values.get("tokenizer.chat_templates", [])
    others = {name: header.values.get(f"tokenizer.chat_template.{name}") for name in names}
    named = {name: text for name, text in {"default": default, **others}.items() if isinstance(text, str)}
    return named if len(named) > 1 else named.get("default")
