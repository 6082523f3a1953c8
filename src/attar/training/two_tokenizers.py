"""Rows as two tokenizers cut them: the same stretches of text for both sides, and where their tokens meet.

Each side reads a row through its own tokenizer and chat template. What is learned (a plain text, an answer) is the same
text on both sides; there the shortest spans are found that begin and end at a token boundary of both, and the end marks
behind the same text make a span of their own. Long plain texts are cut where both sides have a boundary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset

from attar.errors import DataError
from attar.objectives.crosstoken import Span, align_spans
from attar.tasks.base import Processor
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences
from attar.training.token_bytes import TokenBytes

_AROUND = 16


@dataclass(frozen=True)
class Paired:
    """The same sequences as either side reads them, and the span of each token, numbered within its sequence."""

    student: Sequences
    teacher: Sequences
    student_spans: list[np.ndarray]
    """int64 [T], one a sequence: -1 where a token is in no span; only learned tokens are in one."""
    teacher_spans: list[np.ndarray]


@dataclass
class _Side:
    """One side's sequences while they are made."""

    ids: list[np.ndarray] = field(default_factory=list[np.ndarray])
    learned: list[np.ndarray] = field(default_factory=list[np.ndarray])
    spans: list[np.ndarray] = field(default_factory=list[np.ndarray])

    def add(self, ids: np.ndarray, learned: np.ndarray, spans: list[slice]) -> None:
        """One sequence; `spans` in its own places."""
        marks = np.full(len(ids), -1, dtype=np.int64)
        for number, span in enumerate(spans):
            marks[span] = number
        self.ids.append(ids)
        self.learned.append(learned)
        self.spans.append(marks)

    def sequences(self, owners: list[int], truncated: int, taught: np.ndarray | None) -> Sequences:
        """As a model reads them."""
        return Sequences(
            inputs={"input_ids": self.ids},
            lengths=np.array([len(one) for one in self.ids], dtype=np.int64),
            labels=np.array([int(one.sum()) for one in self.learned], dtype=np.int64),
            truncated=truncated,
            learned=self.learned,
            owners=np.array(owners, dtype=np.int64),
            taught=taught,
        )


def pair_rows(task: CausalLM, rows: Dataset, student: Processor, teacher: Processor) -> Paired:
    """All rows by two tokenizers. Raises PlanError where a tokenizer's tokens are no bytes of the text, and DataError
    where the two sides do not read the same text in what is learned.
    """
    sides = (_Side(), _Side())
    spelled = (TokenBytes.of(student, "student"), TokenBytes.of(teacher, "teacher"))
    limits = (task.limit(student), task.limit(teacher))
    owners: list[int] = []
    truncated = 0
    both = zip(task.read(rows, student), task.read(rows, teacher), strict=True)
    for row, (ours, theirs) in enumerate(both):
        spans = _spans(row, (ours, theirs), spelled)
        whole = (slice(0, len(ours[0])), slice(0, len(theirs[0])))
        long = any(part.stop > limit for part, limit in zip(whole, limits, strict=True))
        if long and task.is_plain:
            pieces, left_out = _pieces(spans, whole, limits)
            truncated += left_out
        else:
            pieces = [(slice(0, limits[0]), slice(0, limits[1]))]
            truncated += long
        for number, piece in enumerate(pieces):
            # A later piece begins with a span that the one before ends with: it is read, and not learned again.
            first = spans[[span.student.start for span in spans].index(piece[0].start)] if number else None
            fresh = (1, 1) if first is None else (_length(first.student), _length(first.teacher))
            _add_piece(sides, (ours, theirs), spans, piece, fresh)
            owners.append(row)
    made = [side.sequences(owners, truncated, task.taught(rows, owners)) for side in sides]
    return Paired(made[0], made[1], sides[0].spans, sides[1].spans)


def _add_piece(
    sides: tuple[_Side, _Side],
    read: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    spans: list[Span],
    piece: tuple[slice, slice],
    fresh: tuple[int, int],
) -> None:
    """One piece on both sides; tokens before `fresh`, counted from its beginning, are not learned."""
    masks: list[np.ndarray] = []
    for (ids, learned), part, start in zip(read, piece, fresh, strict=True):
        masks.append(learned[part] & (np.arange(len(ids[part])) >= start))
    kept: list[tuple[slice, slice]] = []
    for span in spans:
        moved = _moved(span.student, piece[0].start), _moved(span.teacher, piece[1].start)
        if all(_inside(one, mask) for one, mask in zip(moved, masks, strict=True)):
            kept.append(moved)
    for at, side in enumerate(sides):
        side.add(read[at][0][piece[at]], masks[at], [span[at] for span in kept])


def _length(part: slice) -> int:
    return part.stop - part.start


def _moved(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by)


def _inside(span: slice, learned: np.ndarray) -> bool:
    """Is all of a span there, and learned?"""
    return span.start >= 1 and span.stop <= len(learned) and bool(learned[span].all())


def _spans(
    row: int,
    read: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    spelled: tuple[TokenBytes, TokenBytes],
) -> list[Span]:
    """The spans of a whole row, in places of its tokens."""
    ours, theirs = (_runs(learned) for _, learned in read)
    if len(ours) != len(theirs):
        raise DataError(
            f"row {row}: the student learns {len(ours)} stretches of this row, the teacher {len(theirs)}: their chat "
            "templates write it differently. Set task.template: never."
        )
    found: list[Span] = []
    for one, other in zip(ours, theirs, strict=True):
        for span in _meet(row, read[0][0][one], read[1][0][other], spelled):
            found.append(Span(_moved(span.student, -one.start), _moved(span.teacher, -other.start)))
    return found


def _runs(learned: np.ndarray) -> list[slice]:
    """Stretches of learned tokens without a gap."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], learned, [False]]).astype(np.int8)))
    return [slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _meet(row: int, ours: np.ndarray, theirs: np.ndarray, spelled: tuple[TokenBytes, TokenBytes]) -> list[Span]:
    """The spans of one learned stretch, in places of its tokens. Raises DataError where the texts differ."""
    pieces = [[known.spelled[number] for number in ids] for ids, known in zip((ours, theirs), spelled, strict=True)]
    texts = [b"".join(side) for side in pieces]
    spaces = [int(text.startswith(b" ")) for text in texts]
    shift = [space - min(spaces) for space in spaces]  # a space that one tokenizer puts before a text
    texts = [text[by:] for text, by in zip(texts, shift, strict=True)]
    common = min(map(len, texts))
    if texts[0][:common] != texts[1][:common]:
        at = next(n for n, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1])
        shown = [text[at : at + _AROUND] for text in texts]
        raise DataError(
            f"row {row}: the student's tokens spell {shown[0]!r} where the teacher's spell {shown[1]!r}, at byte {at} "
            "of what is learned: a tokenizer changes the text (lower case, Unicode forms), or the chat templates write "
            "it differently. Set task.template: never and task.learn: answers, or use a student whose tokenizer keeps "
            "the text."
        )
    offsets = [_offsets(side, by) for side, by in zip(pieces, shift, strict=True)]
    return _with_ends(align_spans(*offsets), offsets)


def _offsets(pieces: list[bytes], shift: int) -> list[tuple[int, int]]:
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64) - shift
    return [(max(int(end) - len(piece), 0), max(int(end), 0)) for end, piece in zip(ends, pieces, strict=True)]


def _with_ends(spans: list[Span], offsets: list[list[tuple[int, int]]]) -> list[Span]:
    """And the first special token behind some text, where both sides have one behind the same text."""
    marks = [next((n for n, (start, end) in enumerate(side) if start == end > 0), None) for side in offsets]
    ours, theirs = marks
    if ours is None or theirs is None or offsets[0][ours] != offsets[1][theirs]:
        return spans
    before = [span for span in spans if span.student.stop <= ours and span.teacher.stop <= theirs]
    after = [span for span in spans if span.student.start > ours and span.teacher.start > theirs]
    if len(before) + len(after) < len(spans):
        return spans
    return [*before, Span(slice(ours, ours + 1), slice(theirs, theirs + 1)), *after]


def _pieces(
    spans: list[Span], whole: tuple[slice, slice], limits: tuple[int, int]
) -> tuple[list[tuple[slice, slice]], bool]:
    """Cuts of a plain text between spans, within both limits; neighbours share one span. And whether text was lost: a
    span that is longer than a limit, or what follows the last span.
    """
    pieces: list[tuple[slice, slice]] = []
    start, last, lost = (0, 0), None, False
    end = start
    for span in spans:
        stop = (span.student.stop, span.teacher.stop)
        if _fits(start, stop, limits):
            end, last = stop, span
            continue
        if last is not None:
            pieces.append((slice(start[0], end[0]), slice(start[1], end[1])))
            start = (last.student.start, last.teacher.start)
        if last is None or not _fits(start, stop, limits):
            start, lost = (span.student.start, span.teacher.start), True
        fits = _fits(start, stop, limits)
        end, last = (stop, span) if fits else (start, None)
    if _fits(start, (whole[0].stop, whole[1].stop), limits):
        end = (whole[0].stop, whole[1].stop)
    elif end != (whole[0].stop, whole[1].stop):
        lost = True
    if end != start:
        pieces.append((slice(start[0], end[0]), slice(start[1], end[1])))
    return pieces, lost


def _fits(start: tuple[int, int], stop: tuple[int, int], limits: tuple[int, int]) -> bool:
    return all(last - first <= limit for first, last, limit in zip(start, stop, limits, strict=True))
