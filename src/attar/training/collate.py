"""From row numbers to a batch: the student's view, the teacher's signals or its own view, labels.

What is random here (token dropout, mixup) is drawn from seed, epoch and the batch's number, never from global state:
a resumed run repeats it, data loader workers don't matter, and student and control see the same.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from attar.errors import PlanError
from attar.tasks.base import Encoded, Task
from attar.training.rows import Batch, TrainingRows

_TOKENS, _MIX = 1, 2
"""What a draw is for."""


class Collator:
    """Turns a `Batch` into the keywords of `Distil.forward`, all but `counts`; tensors on the CPU.

    `token_dropout` p takes each token out of the student's text with probability p: special tokens stay, and so does
    one token of a text that would lose all. The text gets shorter, which also saves time. With `in_place` (objectives
    that compare token by token) the tokens stay where they are and the attention mask hides them.

    `mixup` a draws one share l ~ Beta(a, a) and one partner a row (arXiv:1710.09412): inputs of both views are
    l x + (1 - l) x', and the batch carries the partners' labels. Raises PlanError where the data or the signals do not
    go with either.
    """

    def __init__(
        self, rows: TrainingRows, task: Task, *, seed: int, token_dropout: float, mixup: float, in_place: bool
    ) -> None:
        self.rows, self.task, self.seed = rows, task, seed
        self.token_dropout, self.mixup, self.in_place = token_dropout, mixup, in_place
        if mixup and "pixel_values" not in rows.student.inputs:
            raise PlanError("training.mixup: mixes images, but the rows are texts. Set it to 0.")
        if mixup and rows.signals is not None:
            raise PlanError(
                "training.mixup: the teacher must see the mixed image, and stored signals are of plain ones. "
                "Use teacher.signals: live, or mixup 0."
            )
        if token_dropout and "input_ids" not in rows.student.inputs:
            raise PlanError("training.token_dropout: hides tokens of texts, but the rows are images. Set it to 0.")
        special = set(getattr(rows.processor, "all_special_ids", ()))
        self._special = np.array(sorted(special - {getattr(rows.processor, "unk_token_id", None)}), dtype=np.int64)

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """One micro-batch."""
        rows, source = batch.rows, self.rows
        made: dict[str, Any] = {
            "inputs": self._student_view(batch),
            "labels": torch.from_numpy(source.student.labels[rows]),
        }
        if source.signals is not None:
            signals = source.signals.read(rows)
            made["signals"] = {"logits": signals.logits, "hidden": signals.hidden, "mask": signals.mask}
        if source.live is not None:
            made["view"] = self.task.batch(source.live.encoded, rows, source.live.processor)
        return self._mixed(made, batch) if self.mixup else made

    def _student_view(self, batch: Batch) -> dict[str, Tensor]:
        encoded, processor = self.rows.student, self.rows.processor
        if not self.token_dropout:
            return self.task.batch(encoded, batch.rows, processor)
        names, lengths = list(encoded.inputs), encoded.lengths[batch.rows]
        flat = {name: np.concatenate([encoded.inputs[name][row] for row in batch.rows.tolist()]) for name in names}
        keep = self._kept_tokens(flat["input_ids"], lengths, self._rng(batch, _TOKENS))
        if self.in_place:
            made = self.task.batch(encoded, batch.rows, processor)
            mask = made["attention_mask"].bool()
            made["attention_mask"][mask] = torch.from_numpy(keep.astype(np.int64))
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

    def _mixed(self, made: dict[str, Any], batch: Batch) -> dict[str, Any]:
        rng = self._rng(batch, _MIX)
        share = float(rng.beta(self.mixup, self.mixup))
        partner = torch.from_numpy(rng.permutation(len(batch.rows)))
        for side in ("inputs", "view"):
            if side in made:
                views = cast("dict[str, Tensor]", made[side])
                made[side] = {name: share * x + (1.0 - share) * x[partner] for name, x in views.items()}
        return {**made, "partner_labels": made["labels"][partner], "share": share}

    def _rng(self, batch: Batch, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, batch.epoch, batch.number, purpose])
