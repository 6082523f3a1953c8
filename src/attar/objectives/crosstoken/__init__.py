"""Objectives between models with different tokenizers: where their tokens meet in the text, and which are the same.

Both sides read the same text. `align_spans` finds the shortest stretches of it that begin and end at a token boundary
of both; where one begins, both models have read the same bytes, so their next-token distributions answer the same
question. A token's row is the logits that predict it, so those of the position before. Row objectives compare rows of
such beginnings: `uld`, `aligned`, `projected_kl`. `span_kl` compares the probability of a whole stretch, for the
student's tokens inside it.
"""

from attar.objectives.crosstoken.span import span_kl
from attar.objectives.crosstoken.text import Span, align_spans, offsets_of_characters, offsets_of_pieces, piece_bytes
from attar.objectives.crosstoken.uld import aligned, uld
from attar.objectives.crosstoken.vocabulary import (
    Matched,
    TokenProjection,
    match_tokens,
    project_tokens,
    projected_kl,
)

__all__ = [
    "Matched",
    "Span",
    "TokenProjection",
    "align_spans",
    "aligned",
    "match_tokens",
    "offsets_of_characters",
    "offsets_of_pieces",
    "piece_bytes",
    "project_tokens",
    "projected_kl",
    "span_kl",
    "uld",
]
