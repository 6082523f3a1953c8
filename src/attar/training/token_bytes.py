"""The bytes that each token of a tokenizer stands for, and how the tokens of two tokenizers match by them."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

from attar.errors import PlanError
from attar.objectives.crosstoken import TokenProjection, match_tokens, project_tokens
from attar.objectives.crosstoken.text import PieceFamily, piece_bytes
from attar.objectives.terms.meeting import TokenMaps
from attar.tasks.base import Processor

_ROLES = ("eos", "bos")
"""Special tokens that mean the same on both sides whatever they are called; others match by their names."""


@dataclass(frozen=True)
class TokenBytes:
    """What a tokenizer's tokens spell."""

    spelled: list[bytes]
    """By id; empty for special tokens, which cover no text."""
    special: dict[int, str]
    """By id: the role (eos, bos) or the name of each special token."""

    @classmethod
    def of(cls, processor: Processor, whose: str) -> TokenBytes:
        """Of a fast tokenizer of Transformers. Raises PlanError for one whose tokens are no bytes of the text."""
        family = _family(processor, whose)
        vocabulary = {int(number): token for token, number in processor.get_vocab().items()}
        marked = {number for number, token in processor.added_tokens_decoder.items() if token.special}
        special = {number: vocabulary.get(number, "") for number in marked | set(processor.all_special_ids)}
        for role in reversed(_ROLES):
            if (number := getattr(processor, f"{role}_token_id")) is not None:
                special[int(number)] = role
        spelled = [b""] * (max(vocabulary, default=-1) + 1)
        for number, token in vocabulary.items():
            if number not in special:
                spelled[number] = piece_bytes(token, family)
        return cls(spelled, special)

    @property
    def names(self) -> dict[Hashable, int]:
        """Every token's name, to match by: its bytes, or what a special token is. Of several the last has it."""
        plain = {piece: number for number, piece in enumerate(self.spelled) if piece}
        return {**plain, **{name: number for number, name in self.special.items()}}

    @property
    def texts(self) -> dict[str, int]:
        """The same as texts; bytes that are no text by themselves are escaped, and so is what is special."""
        plain = {_text(piece): number for number, piece in enumerate(self.spelled) if piece}
        return {**plain, **{f"\0{name}": number for number, name in self.special.items()}}


def token_maps(student: Processor, teacher: Processor) -> TokenMaps:
    """How a student's tokens match the teacher's. Raises PlanError as `TokenBytes.of` does."""
    ours, theirs = TokenBytes.of(student, "student"), TokenBytes.of(teacher, "teacher")
    matched = match_tokens(ours.names, theirs.names)
    return TokenMaps(matched, partial(_projection, ours, theirs, student, teacher))


def _projection(ours: TokenBytes, theirs: TokenBytes, student: Processor, teacher: Processor) -> TokenProjection:
    return project_tokens(
        ours.texts, theirs.texts, to_teacher=partial(_ids, teacher), to_student=partial(_ids, student)
    )


def _ids(processor: Processor, text: str) -> list[int]:
    """A token's text as another tokenizer cuts it; nothing where it is no text by itself."""
    if text.startswith("\0") or any("\udc80" <= character <= "\udcff" for character in text):
        return []
    return processor.backend_tokenizer.encode(text, add_special_tokens=False).ids


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "surrogateescape")


def _family(processor: Processor, whose: str) -> PieceFamily:
    """How the vocabulary's strings spell bytes, by the tokenizer's decoder."""
    if getattr(processor, "is_fast", False):
        decoder = processor.backend_tokenizer.decoder
        found: dict[str, Any] = {} if decoder is None else json.loads(decoder.__getstate__())
        kinds = {found.get("type"), *(one.get("type") for one in found.get("decoders", []))}
        if "ByteLevel" in kinds:
            return "byte_level"
        if kinds & {"Metaspace", "ByteFallback"}:
            return "sentencepiece"
    raise PlanError(
        f"{whose}: its tokenizer ({type(processor).__name__}) is neither byte-level BPE nor SentencePiece, so its "
        "tokens cannot be laid beside another's. Use a model with one of these, or one with the same tokenizer."
    )
