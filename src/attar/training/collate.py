"""From row numbers to a batch: the student's view, the teacher's signals or its own view, labels.

What is random here (dropout of tokens, mixup) is drawn from seed, epoch and the batch's number, never from global
state: a resumed run repeats it, data loader workers don't matter, and student and control see the same.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from attar.errors import PlanError, TrainingError
from attar.known import Known
from attar.recipe.objectives import CROSS_KINDS
from attar.tasks.base import NO_LABEL, Task
from attar.tasks.sequences import Sequences, Targets, targets_of
from attar.training.rows import Batch, TrainingRows
from attar.training.text_view import TextView

_TOKENS_ALIKE = (
    "Use a student with the teacher's tokenizer (student.kind: from_teacher) and student.vocabulary.keep: all, set "
    f"task.template: never, or use objectives between tokenizers: {', '.join(CROSS_KINDS)}."
)
_MIX = 2
"""What a draw is for; `text_view` has 1 and 3."""


class Collator:
    """Turns a `Batch` into the keywords of `Distil.forward`, all but `counts` and `progress`; tensors on the CPU.

    `token_dropout` and `subword_dropout` change the student's texts (see `TextView`); `in_place` where objectives
    compare token by token.

    `mixup` a draws one share l ~ Beta(a, a) and one partner a row (arXiv:1710.09412): inputs of both views are
    l x + (1 - l) x', and the batch carries the partners' labels. Raises PlanError where the data or the signals do not
    go with either.
    """

    def __init__(
        self,
        rows: TrainingRows,
        task: Task,
        *,
        seed: int,
        token_dropout: float,
        subword_dropout: float,
        mixup: float,
        in_place: bool,
    ) -> None:
        self.rows, self.task, self.seed, self.mixup = rows, task, seed, mixup
        if mixup and "pixel_values" not in rows.student.inputs:
            raise PlanError("training.mixup: mixes images, but the rows are texts. Set it to 0.")
        if mixup and rows.signals is not None:
            raise PlanError(
                "training.mixup: the teacher must see the mixed image, and stored signals are of plain ones. "
                "Use teacher.signals: live, or mixup 0."
            )
        self._text: TextView | None = None
        if not token_dropout and not subword_dropout:
            return
        if "input_ids" not in rows.student.inputs:
            name = "token_dropout" if token_dropout else "subword_dropout"
            raise PlanError(f"training.{name}: changes the tokens of texts, but the rows are images. Set it to 0.")
        if subword_dropout and in_place:
            raise PlanError(
                "training.subword_dropout: an objective compares token by token (pool: none, or attention), and this "
                "changes their number. Set it to 0, or pool the hidden states."
            )
        self._text = TextView(
            rows, task, seed=seed, token_dropout=token_dropout, subword_dropout=subword_dropout, in_place=in_place
        )

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """One micro-batch."""
        rows, source = batch.rows, self.rows
        if isinstance(source.student, Sequences):
            return self._tokens(batch, source.student)
        made: dict[str, Any] = {
            "inputs": self._student_view(batch),
            "labels": torch.from_numpy(source.student.labels[rows]),
            "rows": torch.from_numpy(rows),
        }
        if source.signals is not None:
            signals = source.signals.read(rows)
            made["signals"] = {"logits": signals.logits, "hidden": signals.hidden, "mask": signals.mask}
        if source.live is not None:
            made["view"] = self.task.batch(source.live.encoded, rows, source.live.processor)
        return self._mixed(made, batch) if self.mixup else made

    def _tokens(self, batch: Batch, sequences: Sequences) -> dict[str, Any]:
        """Of a language model: labels and rows are those of learned tokens; the teacher's words are no labels."""
        rows, live = batch.rows, self.rows.live
        if self.rows.labels_alone and sequences.taught is not None:
            labelled = rows[~sequences.taught[rows]]
            rows = labelled if len(labelled) else rows[:1]
        ours = targets_of(sequences, rows)
        labels = ours.labels
        if sequences.taught is not None:
            labels = np.where(sequences.taught[rows][ours.sequences], NO_LABEL, labels)
        made: dict[str, Any] = {
            "inputs": self.task.batch(sequences, rows, self.rows.processor),
            "labels": torch.from_numpy(labels),
            "positions": torch.from_numpy(ours.positions),
            "rows": torch.from_numpy(ours.keys),
        }
        if self.rows.signals is not None:
            few = self.rows.signals.read(rows).few
            made["signals"] = {"few": None if few is None else few._asdict()}
        if live is not None and live.encoded is sequences:
            made |= {"view": made["inputs"], "view_positions": made["positions"]}
        elif live is not None:
            theirs = targets_of(cast("Sequences", live.encoded), rows)
            if live.alike:
                _require_same_tokens(ours, theirs, rows, live.known)
            made["view"] = self.task.batch(live.encoded, rows, live.processor)
            made["view_positions"] = torch.from_numpy(theirs.positions)
            if live.spans is not None:
                made["meeting"] = _meeting(sequences, cast("Sequences", live.encoded), live.spans, (ours, theirs), rows)
        return made

    def _student_view(self, batch: Batch) -> dict[str, Tensor]:
        if self._text is not None:
            return self._text.inputs(batch)
        return self.task.batch(self.rows.student, batch.rows, self.rows.processor)

    def _mixed(self, made: dict[str, Any], batch: Batch) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, batch.epoch, batch.number, _MIX])
        share = float(rng.beta(self.mixup, self.mixup))
        partner = torch.from_numpy(rng.permutation(len(batch.rows)))
        for side in ("inputs", "view"):
            if side in made:
                views = cast("dict[str, Tensor]", made[side])
                made[side] = {name: share * x + (1.0 - share) * x[partner] for name, x in views.items()}
        return {**made, "partner_labels": made["labels"][partner], "share": share}


def _require_same_tokens(ours: Targets, theirs: Targets, rows: np.ndarray, known: Known | None) -> None:
    """Both sides must tell the same tokens, one by one, by the teacher's numbers for those that the student has."""
    counts = [np.bincount(side.sequences, minlength=len(rows)) for side in (ours, theirs)]
    differing = np.flatnonzero(counts[0] != counts[1])
    if len(differing):
        row = int(differing[0])
        raise TrainingError(
            f"sequence {int(rows[row])}: the student reads {int(counts[0][row])} learned tokens, the teacher "
            f"{int(counts[1][row])}: their tokenizers or chat templates cut this text differently. {_TOKENS_ALIKE}"
        )
    told = ours.labels if known is None else known.outputs.cpu().numpy()[ours.labels]
    other = np.flatnonzero(told != theirs.labels)
    if len(other):
        at = int(other[0])
        raise TrainingError(
            f"sequence {int(rows[ours.sequences[at]])}: its learned token {at} is id {int(told[at])} of the teacher's "
            f"for the student, but the teacher reads id {int(theirs.labels[at])}: their tokenizers or chat templates "
            f"cut this text differently. {_TOKENS_ALIKE}"
        )


def _meeting(
    ours: Sequences,
    theirs: Sequences,
    spans: tuple[list[np.ndarray], list[np.ndarray]],
    targets: tuple[Targets, Targets],
    rows: np.ndarray,
) -> dict[str, Tensor]:
    """The fields of `Meeting`: the spans of the batch's learned tokens, numbered through the batch."""
    marks: list[list[np.ndarray]] = [[], []]
    before = 0
    for row in rows.tolist():
        for side, (encoded, found) in enumerate(zip((ours, theirs), spans, strict=True)):
            own = found[row][encoded.learned[row]]
            marks[side].append(np.where(own >= 0, own + before, -1))
        before += int(spans[0][row].max(initial=-1)) + 1
    student, teacher = (torch.from_numpy(np.concatenate(side)) for side in marks)
    labels = {
        f"{whose}labels": torch.from_numpy(side.labels) for whose, side in zip(("", "teacher_"), targets, strict=True)
    }
    return {"spans": student, "teacher_spans": teacher, **labels}
