"""What the student sees of its texts in a step: some tokens spelled in shorter pieces, some taken out.

Drawn from seed, epoch and the batch's number, never from global state. The teacher's signals are of the whole text.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from torch import Tensor

from attar.students.spellings import shorter_spellings
from attar.tasks.base import Encoded, Task
from attar.training.rows import Batch, TrainingRows

_DROP, _SPELL = 1, 3
"""What a draw is for."""


class TextView:
    """The student's texts of a batch.

    `token_dropout` p takes each token out with probability p: special tokens stay, and so does one token of a text
    that would lose all. The text gets shorter, which also saves time. With `in_place` (objectives that compare token
    by token) the tokens stay where they are and the attention mask hides them.

    `subword_dropout` p spells each token with probability p as if the vocabulary lacked it (see `spellings`), in texts
    that stay within the longest one; not with `in_place`.
    """

    def __init__(
        self, rows: TrainingRows, task: Task, *, seed: int, token_dropout: float, subword_dropout: float, in_place: bool
    ) -> None:
        self.rows, self.task, self.seed = rows, task, seed
        self.token_dropout, self.subword_dropout, self.in_place = token_dropout, subword_dropout, in_place
        special = set(getattr(rows.processor, "all_special_ids", ()))
        self._special = np.array(sorted(special - {getattr(rows.processor, "unk_token_id", None)}), dtype=np.int64)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The model's inputs, padded to the longest text."""
        encoded, processor = self.rows.student, self.rows.processor
        names, lengths = list(encoded.inputs), encoded.lengths[batch.rows]
        flat = {name: np.concatenate([encoded.inputs[name][row] for row in batch.rows.tolist()]) for name in names}
        if self.subword_dropout:
            flat, lengths = self._spell(flat, lengths, self._rng(batch, _SPELL))
        keep = self._kept_tokens(flat["input_ids"], lengths, self._rng(batch, _DROP))
        if self.in_place:
            made = self.task.batch(encoded, batch.rows, processor)
            mask = made["attention_mask"].bool()
            made["attention_mask"][mask] = made["attention_mask"].new_tensor(keep)
            return made
        owner = np.repeat(np.arange(len(lengths)), lengths)
        left = np.bincount(owner[keep], minlength=len(lengths))
        ends = np.cumsum(left)[:-1]
        view = Encoded(
            inputs={name: np.split(values[keep], ends) for name, values in flat.items()},
            lengths=left,
            labels=encoded.labels[:0],
        )
        return self.task.batch(view, np.arange(len(lengths)), processor)

    @cached_property
    def _spellings(self) -> tuple[np.ndarray, np.ndarray]:
        """All spellings as one row of ids, and int64 [vocabulary + 1]: where each begins."""
        found = shorter_spellings(self.rows.processor)
        return np.concatenate([np.array(ids) for ids in found]), np.cumsum([0, *map(len, found)])

    @cached_property
    def _longest(self) -> int:
        return int(self.rows.student.lengths.max())

    def _spell(
        self, flat: dict[str, np.ndarray], lengths: np.ndarray, rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Put shorter pieces in the place of some tokens; every other input is repeated for each piece."""
        pieces, begins = self._spellings
        ids, owner = flat["input_ids"], np.repeat(np.arange(len(lengths)), lengths)
        counts = np.where(rng.random(len(ids)) < self.subword_dropout, np.diff(begins)[ids], 1)
        too_long = np.bincount(owner, weights=counts, minlength=len(lengths)) > self._longest
        counts[too_long[owner]] = 1
        token = np.repeat(np.arange(len(ids)), counts)
        within = np.arange(len(token)) - np.repeat(np.cumsum(counts) - counts, counts)
        spelled = np.where(counts[token] > 1, pieces[begins[ids[token]] + within], ids[token])
        longer = {name: values[token] for name, values in flat.items()} | {"input_ids": spelled.astype(ids.dtype)}
        return longer, np.bincount(owner[token], minlength=len(lengths))

    def _kept_tokens(self, ids: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """bool, one a token: which the student sees."""
        special = np.isin(ids, self._special)
        keep = rng.random(len(ids)) >= self.token_dropout
        owner = np.repeat(np.arange(len(lengths)), lengths)
        plain = np.bincount(owner[~special], minlength=len(lengths))
        bare = (np.bincount(owner[keep & ~special], minlength=len(lengths)) == 0) & (plain > 0)
        if bare.any():
            first = np.flatnonzero(~special)[np.unique(owner[~special], return_index=True)[1]]
            keep[first[bare[plain > 0]]] = True
        return keep | special

    def _rng(self, batch: Batch, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, batch.epoch, batch.number, purpose])
