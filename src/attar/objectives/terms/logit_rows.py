"""Logits of a micro-batch as rows, and each logit term's share in them.

How logits become rows, by problem: `single_label` [N, C] as they are (or a projection of N tokens); `multi_label`
[N, C] as N*C two-class rows (z / 2, -z / 2), whose softmax is the sigmoid; `regression` [N, 1] as rows of one number,
for `logit_mse` (plain squared distance), own objectives and labels. Shape letters: N rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attar.errors import TrainingError
from attar.logits import Logits
from attar.mixture import Mixture, Regrouped, Told, device_of, width_of
from attar.objectives.chance import row_keys
from attar.objectives.reduction.share import Share, Term
from attar.objectives.terms.courses import Moment
from attar.objectives.terms.logits import LogitTerm, Problem
from attar.objectives.terms.meeting import Meeting
from attar.objectives.terms.part import present
from attar.signals import Few, Signals

NO_LABEL = -100


@dataclass(frozen=True)
class Draw:
    """What random draws of a micro-batch depend on, besides term and step."""

    seed: int
    rows: Tensor | None
    """int64 [N]: numbers that tell the training's rows apart; None: their places in the batch."""

    def keys(self, name: str, count: int, device: torch.device, done: float) -> Tensor:
        """A key for each of `count` rows of logits, int64, where each of the batch's rows becomes equally many."""
        places = torch.arange(count, device=device)
        if self.rows is not None and len(self.rows):
            cells = count // len(self.rows)
            places = self.rows.to(device).repeat_interleave(cells) * cells + places % cells
        return row_keys(places, seed=self.seed, name=name, progress=done)


@dataclass(frozen=True)
class LogitRows:
    """What rows are, for one problem."""

    problem: Problem

    def kept(self, term: LogitTerm, labels: Tensor | None, batch_size: int, meeting: Meeting | None = None) -> int:
        """Rows; labelled rows (multi-label: cells) where the term reads labels; those where both sides meet where it
        compares two tokenizers.
        """
        if term.across is not None:
            found = _met(meeting, term)
            return int((found.begins if term.across == "beginnings" else found.spans >= 0).sum())
        if not term.reads_labels:
            return batch_size
        return 0 if labels is None else int(self._labelled(labels).sum())

    def shares(
        self,
        terms: Mapping[str, LogitTerm],
        student: Signals,
        teacher: Signals | None,
        labels: Tensor | None,
        counts: Mapping[str, float],
        moment: Moment,
        draw: Draw,
        meeting: Meeting | None = None,
    ) -> tuple[Logits, dict[str, Share]]:
        """The student's rows, and by name the share of each term. Raises TrainingError where sides don't fit."""
        logits = present(student.logits, "the student's logits")
        rows = self._rows(logits)
        if isinstance(rows, Mixture | Regrouped):
            raise TrainingError("a student is one model with tokens of its own: its logits are no mixture.")
        cells = 1  # two-class rows that one row becomes
        if self.problem == "multi_label" and isinstance(logits, Tensor):
            cells = logits.shape[1]
        one_by_one = [name for name, term in terms.items() if term.one_by_one and not term.row.listed]
        target = self._target(one_by_one[0], rows, teacher) if one_by_one else None
        flat = self._flat_labels(rows, labels) if any(term.reads_labels for term in terms.values()) else None
        shares: dict[str, Share] = {}
        for name, term in terms.items():
            keep = self._labelled(flat) if term.reads_labels and flat is not None else None
            count = counts[name] * (1 if term.reads_labels else cells)
            temperature = moment.temperatures.get(name, 1.0)
            row = replace(term.row, weight=moment.weights[name], temperature=temperature)
            if term.across is not None:
                said = present(None if teacher is None else teacher.logits, "the teacher's logits")
                shares[name] = _across(row, term, rows, said, _met(meeting, term), counts[name])
                continue
            if term.row.listed:
                few = self._few(name, rows, teacher)
                shares[name] = Share(row, few.log_probs, keep, count, rest_of(few))
                continue
            if target is None or not term.reads_teacher:
                shares[name] = Share(row, present(flat, "labels"), keep, count)
                continue
            given: dict[str, Tensor | float] = {}
            if term.reads_labels:
                given["labels"] = present(flat, "labels")
            if term.progress:
                given["progress"] = moment.progress.get(name, moment.done)
            if term.keys:
                given["keys"] = draw.keys(name, len(rows), device_of(rows), moment.done)
            if term.authors:
                given["on_policy"] = torch.full((len(rows),), moment.written, device=device_of(rows))
            shares[name] = Share(row, target, keep, count, given)
        return rows, shares

    def _rows(self, logits: Told) -> Told:
        if not isinstance(logits, Tensor):
            if self.problem != "single_label":
                raise TrainingError(f"a projection of logits serves single_label rows, not {self.problem}.")
            return logits
        match self.problem:
            case "single_label":
                return logits
            case "multi_label":
                return 0.5 * torch.stack((logits, -logits), dim=-1).flatten(0, 1)
            case "regression":
                return logits.reshape(-1, 1)

    def _target(self, name: str, rows: Logits, teacher: Signals | None) -> Told:
        target = self._rows(present(None if teacher is None else teacher.logits, "the teacher's logits"))
        if _shape(target) != _shape(rows):
            raise TrainingError(
                f"{name}: seen as rows, the student has {_shape(rows)}, the teacher {_shape(target)}; "
                "both need the same rows and outputs. Check their label maps."
            )
        return target

    def _few(self, name: str, rows: Logits, teacher: Signals | None) -> Few:
        few = present(None if teacher is None else teacher.few, "the teacher's stored tokens")
        if len(few.log_probs) != len(rows):
            raise TrainingError(
                f"{name}: the student has {len(rows)} learned tokens, the store {len(few.log_probs)}; both must be of "
                "the same texts, cut alike."
            )
        return few

    def _flat_labels(self, rows: Logits, labels: Tensor | None) -> Tensor:
        if labels is None:
            missing = NO_LABEL if self.problem == "single_label" else float("nan")
            return torch.full((len(rows),), missing, device=device_of(rows))
        flat = labels.reshape(-1)
        if len(flat) != len(rows):
            raise TrainingError(f"hard_labels: {len(flat)} labels do not fit {len(rows)} rows of logits")
        return flat

    def _labelled(self, labels: Tensor) -> Tensor:
        return labels != NO_LABEL if self.problem == "single_label" else ~labels.isnan()


def _met(meeting: Meeting | None, term: LogitTerm) -> Meeting:
    """Raises TrainingError where nobody said where both sides meet."""
    if meeting is None:
        raise TrainingError(
            f"{term.row.name}: compares rows where two tokenizers meet, which only the training of language models "
            "knows. Use forward_kl."
        )
    return meeting


def _across(row: Term, term: LogitTerm, rows: Logits, teacher: Told, meeting: Meeting, count: float) -> Share:
    if term.across == "beginnings":
        return Share(row, meeting.teacher_rows(teacher), meeting.begins, count)
    told, others = meeting.worth(rows, teacher)
    return Share(row, told, meeting.spans >= 0, count, {"token_ids": meeting.labels, "others": others})


def rest_of(few: Few) -> dict[str, Tensor | float]:
    """What an objective on few tokens takes by keyword, besides their log-probabilities."""
    return {name: value for name, value in few._asdict().items() if name != "log_probs"}


def _shape(rows: Told) -> list[int]:
    return list(rows.shape) if isinstance(rows, Tensor) else [len(rows), width_of(rows)]
