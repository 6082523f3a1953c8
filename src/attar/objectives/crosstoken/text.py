"""Which bytes of a text each token covers, and where two tokenizations of it meet.

Plain Python, no tensors. An offset is (first byte, byte after the last) in the text's UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Offset = tuple[int, int]
PieceFamily = Literal["byte_level", "sentencepiece"]

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SENTENCEPIECE_SPACE = "\u2581"


class Span(NamedTuple):
    """A stretch of the text as both sides' tokens."""

    student: slice
    teacher: slice


def align_spans(student_offsets: Sequence[Offset], teacher_offsets: Sequence[Offset]) -> list[Span]:
    """The shortest spans that begin and end at a token boundary of both sides, in order.

    Both get byte offsets of one text's tokens from its beginning on, as the functions below give them. A boundary is
    where a token ends; bytes that a tokenizer drops (a WordPiece's spaces) count to the token after them. Tokens
    without bytes (special ones) neither begin nor end a span. Where only one side goes on (a cut or a dropped end),
    its tokens after the last common boundary are in no span: TRL's GOLD makes a last group of them, which compares
    different texts. Raises ValueError where offsets run backwards or overlap, as character offsets do when a character
    is split: see `offsets_of_pieces`.
    """
    sides = [_covering(offsets, side) for offsets, side in ((student_offsets, "student"), (teacher_offsets, "teacher"))]
    common = sorted({end for end, _ in sides[0]} & {end for end, _ in sides[1]})
    student, teacher = (_between(common, side) for side in sides)
    return [Span(*pair) for pair in zip(student, teacher, strict=True)]


def offsets_of_pieces(text: str, pieces: Iterable[bytes]) -> list[Offset]:
    """Byte offsets of tokens that spell the text, special tokens left out: for byte-level BPE and SentencePiece.

    `pieces` are the tokens' bytes, as `piece_bytes` gives them. The first may begin with a space that the text does
    not have, which tokenizers put there; it gets no bytes. Raises ValueError where the pieces do not spell the text:
    a normaliser changed it (lower case, Unicode forms), or tokens that stand for other text are among them.
    """
    pieces = list(pieces)
    spelled, written = b"".join(pieces), text.encode()
    shift = int(spelled == b" " + written)
    if spelled[shift:] != written:
        at = next((at for at, pair in enumerate(zip(spelled, written, strict=False)) if pair[0] != pair[1]), -1)
        at = at if at >= 0 else min(len(spelled), len(written))
        raise ValueError(
            f"the pieces spell {spelled[at : at + 12]!r} where the text has {written[at : at + 12]!r}, at byte {at}: "
            "a normaliser changed the text, or special tokens are among the pieces. Give the normalised text, or use "
            "offsets_of_characters."
        )
    offsets: list[Offset] = []
    end = -shift
    for piece in pieces:
        offsets.append((max(end, 0), max(end + len(piece), 0)))
        end += len(piece)
    return offsets


def offsets_of_characters(text: str, offsets: Iterable[Offset]) -> list[Offset]:
    """Byte offsets from character offsets in the text, as the `offsets` of a `tokenizers` encoding are.

    For tokenizers whose tokens are whole characters (WordPiece, word level); the offsets point into the text as it
    was before normalisation. A character split over several tokens gets all of its bytes in each of them, which
    `align_spans` refuses.
    """
    before = [0]
    for character in text:
        before.append(before[-1] + len(character.encode()))
    return [(before[start], before[end]) for start, end in offsets]


def piece_bytes(piece: str, family: PieceFamily) -> bytes:
    """The bytes that a vocabulary's string stands for.

    `byte_level`: each character is a byte in GPT-2's alphabet (Ġ is a space). `sentencepiece`: ▁ is a space, <0xE2> a
    byte. A string outside the alphabet (an added token) stands for itself. Vocabularies of the two families match by
    these, not by their strings.
    """
    if family == "sentencepiece":
        fallback = _BYTE_FALLBACK.fullmatch(piece)
        return bytes([int(fallback[1], 16)]) if fallback else piece.replace(_SENTENCEPIECE_SPACE, " ").encode()
    known = [_ALPHABET.get(character) for character in piece]
    return piece.encode() if None in known else bytes(byte for byte in known if byte is not None)


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's: printable Latin-1 characters are their own byte, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(rest)}


_ALPHABET = _byte_level_alphabet()


def _covering(offsets: Sequence[Offset], side: str) -> list[tuple[int, int]]:
    """(end, index) of the tokens that cover bytes."""
    found: list[tuple[int, int]] = []
    last = 0
    for index, (start, end) in enumerate(offsets):
        if start == end:
            continue
        if start < last or end < start:
            raise ValueError(
                f"the {side}'s token {index} covers bytes {start}..{end}, but the tokens before it reach {last}: "
                "offsets must not overlap. Take them from the tokens' pieces (offsets_of_pieces)."
            )
        found.append((end, index))
        last = end
    return found


def _between(common: Sequence[int], covering: Sequence[tuple[int, int]]) -> list[slice]:
    """For each common boundary the tokens since the one before, without special tokens at either end."""
    slices: list[slice] = []
    tokens = iter(covering)
    for boundary in common:
        end, index = next(tokens)
        first = index
        while end < boundary:
            end, index = next(tokens)
        slices.append(slice(first, index + 1))
    return slices
