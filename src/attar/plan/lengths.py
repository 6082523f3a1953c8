"""How long a language model's rows are in tokens, and how many of them are cut: counted on a sample."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from attar.plan.rows import RowsFound
from attar.plan.tokenizers import Tokenizer
from attar.recipe.task import CausalLMSpec

_SAMPLE = 1000
_LONGEST_TEXT = 100_000
"""Characters of a text that are looked at."""
_PIECES_PER_WORD = 1.35


@dataclass(frozen=True)
class Lengths:
    """Tokens of the training rows, as the teacher's tokenizer cuts them. What a chat template adds is not in it."""

    mean: float
    """Of a sequence, none longer than the limit."""
    longest: int
    """Of a row, uncut."""
    over: float
    """Share of rows that are longer than the limit."""
    a_row: float
    """Sequences that a row becomes: more than 1 where long plain texts are cut into several."""
    rows: int
    """Rows that were looked at."""
    counted: bool
    """By the tokenizer itself; else by words."""


def lengths_of(task: CausalLMSpec, rows: RowsFound, tokenizer: Tokenizer | None) -> Lengths | None:
    """What can be said of the rows' lengths; None where no text can be seen from here."""
    step = max(len(rows.texts) // _SAMPLE, 1)
    texts = [text[:_LONGEST_TEXT] for text in rows.texts[::step][:_SAMPLE]]
    if not texts:
        return None
    counts = _counted(texts, tokenizer)
    sizes = counts or [2 + int(_PIECES_PER_WORD * len(text.split())) for text in texts]
    limit, plain = task.max_length, task.messages is None and task.prompt is None
    pieces = [max(1, -(-(size - 1) // (limit - 1))) if plain else 1 for size in sizes]
    total = sum(size if plain else min(size, limit) for size in sizes)
    return Lengths(
        mean=total / sum(pieces),
        longest=max(sizes),
        over=sum(size > limit for size in sizes) / len(sizes),
        a_row=sum(pieces) / len(pieces),
        rows=len(sizes),
        counted=bool(counts),
    )


def _counted(texts: list[str], tokenizer: Tokenizer | None) -> list[int]:
    """Tokens of each text by tokenizer.json, with an end token; empty where there is none that can be read."""
    if tokenizer is None or tokenizer.file is None:
        return []
    try:
        backend: Any = importlib.import_module("tokenizers").Tokenizer.from_file(str(tokenizer.file))
        backend.no_truncation()
        return [len(backend.encode(text).ids) + 1 for text in texts]  # one by one: no threads before a fork
    except Exception:  # the package raises plain Exception for files that it does not know
        return []
