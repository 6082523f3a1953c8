"""New texts from old ones: splice two, drop words, swap neighbours, insert words. All rows at once, in numpy.

A text is a row of words (runs without white space; each Chinese or Japanese character is a word of its own), joined by
single spaces. Its label survives dropping, swapping and inserting, and a splice of two texts of one label. Of a pair
one side changes at a time; the label of a pair survives dropping and swapping only: what was joined or put in may turn
how the two relate. No new text is empty, equal to a text it must avoid, or made twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attar.data.overlap import text_key
from attar.errors import DataError
from attar.recipe.data import AugmentTextSpec

_WIDE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_WIDE}] ?|[^ {_WIDE}]+ ?")
_WIDE_CHARACTER = re.compile(rf"[{_WIDE}]")
_IDLE_ROUNDS = 6
_TRIES_A_ROW = 24
_CHUNK = 32768
_CHARACTERS_A_WORD = 64


@dataclass(frozen=True)
class NewTexts:
    """Texts made (`pairs` of pairs only), the source row of each, and whether that row's label survives."""

    texts: list[str]
    pairs: list[str] | None
    sources: np.ndarray
    keeps_label: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


def augment_texts(
    texts: list[str],
    pairs: list[str] | None,
    classes: np.ndarray | None,
    spec: AugmentTextSpec,
    *,
    avoid: set[str],
    longest: int,
) -> NewTexts:
    """Make `spec.rows` new texts, or as many different ones as come out of a bounded number of tries.

    `classes` int64 [N]: class ids of the source rows, None where rows have no single label. `avoid`: `text_key`s that
    no new text may have. Only the first `longest` words of a source are used. Deterministic in `spec.seed`. Raises
    DataError where every source is empty or every chance is zero.
    """
    if not any((spec.splice, spec.drop, spec.swap, spec.insert)):
        raise DataError(
            "augment_text: splice, drop, swap and insert are all 0, so nothing new can come out. Raise one."
        )
    words = _Words.of([*texts, *(pairs or ())], longest)
    makers = _Makers(words, len(texts), 1 if pairs is None else 2, classes)
    rng = np.random.default_rng(spec.seed)
    seen = set(avoid)
    made: list[tuple[str, str | None, int, bool]] = []
    idle = tried = 0
    while len(made) < spec.rows and idle < _IDLE_ROUNDS and tried < _TRIES_A_ROW * spec.rows:
        before = len(made)
        size = min(_CHUNK, spec.rows - before)
        _collect(makers, texts, pairs, spec, rng, size, seen, made)
        idle, tried = (idle + 1 if len(made) == before else 0), tried + size
    return NewTexts(
        texts=[text for text, _, _, _ in made],
        pairs=None if pairs is None else [pair or "" for _, pair, _, _ in made],
        sources=np.array([source for _, _, source, _ in made], dtype=np.int64),
        keeps_label=np.array([keeps for _, _, _, keeps in made], dtype=bool),
    )


def _collect(
    makers: _Makers,
    texts: list[str],
    pairs: list[str] | None,
    spec: AugmentTextSpec,
    rng: np.random.Generator,
    rows: int,
    seen: set[str],
    made: list[tuple[str, str | None, int, bool]],
) -> None:
    """Make `rows` texts once and keep those that are new."""
    fresh, base, keeps = makers.make(rows, spec, rng)
    side, source = np.divmod(base, len(texts))
    for text, on_right, row, keep in zip(fresh, side.tolist(), source.tolist(), keeps.tolist(), strict=True):
        left: str = texts[row] if on_right else text
        right: str | None = None if pairs is None else text if on_right else pairs[row]
        key = text_key(left, right)
        if key not in seen:
            seen.add(key)
            made.append((left, right, row, keep))


@dataclass(frozen=True)
class _Words:
    """All source texts as one row of word ids: text i is `ids[offsets[i]:offsets[i + 1]]`.

    A spelling holds the space behind its word. `spaced` gives the id of a word's spelling with a space, for words
    that a wide character followed; `wide` tells characters that need none.
    """

    spellings: np.ndarray
    spaced: np.ndarray
    wide: np.ndarray
    ids: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def of(texts: Sequence[str], longest: int) -> _Words:
        known: dict[str, int] = {}
        ids: list[int] = []
        offsets = [0]
        for text in texts:
            words = _WORD.findall(" ".join(text[: longest * _CHARACTERS_A_WORD].split()))[:longest]
            ids.extend(known.setdefault(word, len(known)) for word in words)
            offsets.append(len(ids))
        wide = [bool(_WIDE_CHARACTER.match(word)) for word in known]
        spaced = [
            i if is_wide or word.endswith(" ") else known.setdefault(f"{word} ", len(known))
            for i, (word, is_wide) in enumerate(zip(list(known), wide, strict=True))
        ]
        added = len(known) - len(wide)
        return _Words(
            spellings=np.array(list(known), dtype=object),
            spaced=np.array([*spaced, *range(len(wide), len(known))], dtype=np.int64),
            wide=np.array([*wide, *[False] * added], dtype=bool),
            ids=np.array(ids, dtype=np.int64),
            offsets=np.array(offsets, dtype=np.int64),
        )


class _Makers:
    """Makes texts from the words of N source rows of one side, or of both sides (side 1 stands N texts further on)."""

    def __init__(self, words: _Words, rows: int, sides: int, classes: np.ndarray | None) -> None:
        self.words = words
        self.rows = rows
        self.pairs = sides == 2
        self.classes = classes
        self.lengths = np.diff(words.offsets)
        self.bases = np.flatnonzero(self.lengths)
        if len(self.bases) == 0:
            raise DataError("augment_text: every training text is empty, so there is nothing to make new texts from.")
        if classes is not None:
            self._by_class = np.argsort(classes, kind="stable")
            self._sorted = classes[self._by_class]

    def make(
        self, rows: int, spec: AugmentTextSpec, rng: np.random.Generator
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Texts, the source text of each (side x N + row) and whether its label survives."""
        base = rng.choice(self.bases, rows)
        splice = rng.random(rows) < spec.splice
        partner = self._partners(base, rng.random(rows) < spec.splice_within_label, rng)
        splice &= self.lengths[partner] > 0
        keeps = ~splice | (self._same_class(base, partner) if not self.pairs else False)
        head = np.where(splice, _cut(self.lengths[base], rng), self.lengths[base])
        skipped = np.where(self.lengths[partner] > 1, _cut(self.lengths[partner], rng), 0)
        tail = np.where(splice, self.lengths[partner] - skipped, 0)
        starts = np.stack([self.words.offsets[base], self.words.offsets[partner] + skipped], 1).ravel()
        sizes = np.stack([head, tail], 1).ravel()
        ids = self.words.ids[_spans(starts, sizes)]
        owner = np.repeat(np.arange(rows), head + tail)
        ids, owner = _drop(ids, owner, rows, spec.drop, rng)
        ids = _swap(ids, owner, spec.swap, rng)
        ids, owner, grown = _insert(ids, owner, rows, spec.insert, self.words.ids, rng)
        if self.pairs:
            keeps &= ~grown
        return self._spelled(ids, owner, rows), base, keeps

    def _partners(self, base: np.ndarray, within: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A text of the same side for each base; of the same class where `within`."""
        side, row = np.divmod(base, self.rows)
        other = rng.integers(0, self.rows, len(base))
        if self.classes is not None:
            first = np.searchsorted(self._sorted, self.classes[row], side="left")
            last = np.searchsorted(self._sorted, self.classes[row], side="right")
            same = self._by_class[first + (rng.random(len(base)) * (last - first)).astype(np.int64)]
            other = np.where(within, same, other)
        return side * self.rows + other

    def _same_class(self, base: np.ndarray, partner: np.ndarray) -> np.ndarray:
        if self.classes is None:
            return np.zeros(len(base), dtype=bool)
        return self.classes[base] == self.classes[partner]

    def _spelled(self, ids: np.ndarray, owner: np.ndarray, rows: int) -> list[str]:
        before_word = np.zeros(len(ids), dtype=bool)
        before_word[:-1] = ~self.words.wide[ids[1:]] & (owner[1:] == owner[:-1])
        spellings = self.words.spellings[np.where(before_word, self.words.spaced[ids], ids)].tolist()
        ends = np.searchsorted(owner, np.arange(rows), side="right").tolist()
        starts = [0, *ends[:-1]]
        return ["".join(spellings[start:end]).strip() for start, end in zip(starts, ends, strict=True)]


def _cut(lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random place inside each text, 1..length - 1 (1 for a single word)."""
    return 1 + (rng.random(len(lengths)) * np.maximum(lengths - 1, 1)).astype(np.int64)


def _spans(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The positions start, start + 1, …, start + size - 1 of every span, one after the other."""
    begins = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(starts - begins, sizes)


def _drop(
    ids: np.ndarray, owner: np.ndarray, rows: int, chance: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Drop words, but never the last one left: a text that would lose all keeps its first."""
    kept = rng.random(len(ids)) >= chance
    first = np.searchsorted(owner, np.arange(rows))
    kept[first[np.bincount(owner[kept], minlength=rows) == 0]] = True
    return ids[kept], owner[kept]


def _swap(ids: np.ndarray, owner: np.ndarray, chance: float, rng: np.random.Generator) -> np.ndarray:
    """Swap words with the next one of their text; of a run of marked words every second swaps."""
    count = len(ids)
    marked = rng.random(count) < chance
    marked[:-1] &= owner[:-1] == owner[1:]
    marked[-1:] = False
    run_start = np.maximum.accumulate(np.where(marked, 0, np.arange(1, count + 1)))
    left = np.flatnonzero(marked & ((np.arange(count) - run_start) % 2 == 0))
    order = np.arange(count)
    order[left], order[left + 1] = left + 1, left
    return ids[order]


def _insert(
    ids: np.ndarray, owner: np.ndarray, rows: int, chance: float, pool: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put random words of the pool after words; also tells which texts grew."""
    grows = rng.random(len(ids)) < chance
    times = 1 + grows.astype(np.int64)
    longer = np.repeat(ids, times)
    longer[np.cumsum(times)[grows] - 1] = rng.choice(pool, int(grows.sum()))
    return longer, np.repeat(owner, times), np.bincount(owner[grows], minlength=rows) > 0
