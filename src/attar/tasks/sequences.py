"""Sequences of tokens, and which of them are learned: what language models read in the place of labelled rows.

Shape letters: N sequences, T tokens of the longest, R learned tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from attar.hashing import hash_bytes
from attar.known import Known
from attar.tasks.base import Encoded


@dataclass(frozen=True, kw_only=True)
class Sequences(Encoded):
    """Sequences as one model reads them. `labels` counts the learned tokens of each, int64 [N]."""

    learned: Sequence[np.ndarray]
    """bool, one array a sequence: which tokens are learned. Never the first, which nothing stands before."""
    owners: np.ndarray
    """int64 [N]: the row of the data that a sequence comes from; ascending. Long texts become several."""
    taught: np.ndarray | None = None
    """bool [N]: sequences whose learned tokens are the teacher's words, and no labels; None: there are none."""


def sequence_keys(encoded: Sequences) -> list[str]:
    """A content key for each sequence, by the teacher's numbers of its tokens (see `renumbered`): a hash of these, and
    of which are learned. Of several teachers the one that is asked counts.
    """
    keys = [
        hash_bytes(one.astype("<i8").tobytes(), np.packbits(learned).tobytes())
        for one, learned in zip(encoded.inputs["input_ids"], encoded.learned, strict=True)
    ]
    return keys if encoded.route is None else routed_keys(keys, encoded.route)


def renumbered(encoded: Sequences, known: Known | None) -> Sequences:
    """The student's sequences with the teacher's number of each token (None: they are the same): what a teacher reads
    that has all of the student's tokens, and spells some texts in fewer of its own.
    """
    if known is None:
        return encoded
    outputs = known.outputs.numpy()
    ids = [outputs[one] for one in encoded.inputs["input_ids"]]
    return replace(encoded, inputs={**encoded.inputs, "input_ids": ids})


def joined(first: Sequences, second: Sequences, chosen: np.ndarray) -> Sequences:
    """`first` and the `chosen` of `second`, int64 [n], by the rows that they come from; of one row `first`'s stand
    before. Neither is routed.
    """
    owners = np.concatenate([first.owners, second.owners])
    taken = np.concatenate([np.arange(len(first)), len(first) + chosen])
    taken = taken[np.argsort(owners[taken], kind="stable")]
    both = {name: [*first.inputs[name], *second.inputs[name]] for name in first.inputs}
    learned = [*first.learned, *second.learned]
    return Sequences(
        inputs={name: [arrays[at] for at in taken.tolist()] for name, arrays in both.items()},
        lengths=np.concatenate([first.lengths, second.lengths])[taken],
        labels=np.concatenate([first.labels, second.labels])[taken],
        learned=[learned[at] for at in taken.tolist()],
        owners=owners[taken],
        truncated=first.truncated,
    )


def routed_keys(keys: Sequence[str], route: np.ndarray) -> list[str]:
    """Content keys of rows whose signals also hang on which of several teachers is asked, int64 [N]."""
    return [hash_bytes(key.encode(), str(number).encode()) for key, number in zip(keys, route.tolist(), strict=True)]


class Targets(NamedTuple):
    """The learned tokens of a batch, sequence by sequence. The logits at `positions` are to tell `labels`."""

    positions: np.ndarray
    """int64 [R]: places in the batch's N x T tokens, each the one before a learned token."""
    labels: np.ndarray
    """int64 [R]: the learned tokens' ids."""
    keys: np.ndarray
    """int64 [R]: numbers that tell all learned tokens of the data apart, whatever the batch."""
    sequences: np.ndarray
    """int64 [R]: which of the batch's sequences each is in, 0 to N - 1."""


def prompt_lengths(encoded: Sequences, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """int64 [n]: of some sequences, the tokens before the last answer, one at least; of one without learned tokens
    all of them. What is learned last is the answer; in a chat, what the assistant said before belongs to the prompt.
    """
    return np.array([_before_the_last(encoded.learned[row]) for row in rows], dtype=np.int64)


def _before_the_last(learned: np.ndarray) -> int:
    places = np.flatnonzero(learned)
    if not len(places):
        return len(learned)
    given = np.flatnonzero(~learned[: places[-1]])  # the first token is one of them, always
    return int(given[-1]) + 1


def with_answers(encoded: Sequences, rows: Sequence[int] | np.ndarray, answers: Sequence[Sequence[int]]) -> Sequences:
    """Some sequences with other answers to their prompts (see `prompt_lengths`), ids as they are; in this order.

    All of an answer is learned, and nothing else. An empty answer leaves the prompt, of which nothing is.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    ids: list[np.ndarray] = []
    learned: list[np.ndarray] = []
    for row, prompt, answer in zip(chosen.tolist(), prompt_lengths(encoded, chosen).tolist(), answers, strict=True):
        ids.append(np.concatenate([encoded.inputs["input_ids"][row][:prompt], np.asarray(answer, dtype=np.int64)]))
        learned.append(np.arange(len(ids[-1])) >= prompt)
    return Sequences(
        inputs={"input_ids": ids},
        lengths=np.array([len(one) for one in ids], dtype=np.int64),
        labels=np.array([int(one.sum()) for one in learned], dtype=np.int64),
        learned=learned,
        owners=encoded.owners[chosen],
        route=None if encoded.route is None else encoded.route[chosen],
    )


def targets_of(encoded: Sequences, rows: Sequence[int] | np.ndarray, *, left_padded: bool = False) -> Targets:
    """The targets of some sequences, batched as `Task.batch` pads them."""
    chosen = np.asarray(rows, dtype=np.int64)
    lengths = encoded.lengths[chosen]
    width = int(lengths.max(initial=0))
    places = [np.flatnonzero(encoded.learned[row]) for row in chosen.tolist()]
    counts = np.array([len(place) for place in places], dtype=np.int64)
    within = np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
    sequence = np.repeat(np.arange(len(chosen)), counts)
    shift = (width - lengths)[sequence] if left_padded else 0
    ids = encoded.inputs["input_ids"]
    told = [ids[row][place] for row, place in zip(chosen.tolist(), places, strict=True)]
    longest = int(encoded.lengths.max(initial=1))
    return Targets(
        positions=sequence * width + within - 1 + shift,
        labels=np.concatenate(told).astype(np.int64) if told else np.zeros(0, dtype=np.int64),
        keys=chosen[sequence] * longest + within,
        sequences=sequence,
    )
