"""The objectives of a recipe as one module: the weighted sum of their terms, each term also by itself.

`Terms` turns specs into row functions, says which signals it wants, counts kept rows, and hands everything to the
reduction. Its only parameters are the projectors of `hidden`, which belong to the run: they are trained and
checkpointed with the student and never exported. Shape letters: N rows, C outputs, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

import torch
from torch import Tensor, nn

from attar.errors import PlanError, TrainingError
from attar.objectives.hidden import cosine_distance, mse_distance
from attar.objectives.layers import Pair, Projected, layer_pairs, make_projector, token_rows
from attar.objectives.logit_terms import LogitTerm, Problem, logit_term
from attar.objectives.own import OwnObjective
from attar.objectives.reduction import RowFunction, RowTerm, Share, reduce_rows
from attar.recipe.objectives import AnyObjectiveSpec, HiddenSpec
from attar.signals import HiddenKey, Pool, Signals, Wanted

NO_LABEL = -100


@dataclass(frozen=True)
class Loss:
    """`total`: the weighted sum, with its graph. `terms`: each term's share of the step's mean, unweighted, detached.

    Summed over the micro-batches and processes of a step, both are the step's.
    """

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class _HiddenTerm:
    name: str
    weight: float
    pool: Pool
    functions: dict[Pair, RowFunction]


class Terms(nn.Module):
    """Weighted sum of the terms that `specs` ask for.

    `student_widths` and `teacher_widths` give the hidden width by hidden state 0..L, with L `student_layers` and
    `teacher_layers` (read by `hidden` only); a projector is made where they differ, from `seed`. Raises PlanError
    with every objective that does not fit `problem` or the layers.

    How logits become rows, by `problem`: `single_label` [N, C] as they are; `multi_label` [N, C] as N*C two-class
    rows (z / 2, -z / 2), whose softmax is the sigmoid; `regression` [N, 1] as rows of one number, for `logit_mse`
    (plain squared distance), own objectives and labels.
    """

    def __init__(
        self,
        specs: Sequence[AnyObjectiveSpec | OwnObjective],
        *,
        problem: Problem,
        student_widths: Mapping[int, int],
        teacher_widths: Mapping[int, int],
        student_layers: int,
        teacher_layers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.problem: Problem = problem
        self.names: tuple[str, ...] = _names([spec.kind for spec in specs])
        """One a term: its kind, `kind_2` where it stands there again."""
        self.layer_pairs: dict[str, tuple[Pair, ...]] = {}
        """By name of each `hidden` term: (student layer, teacher layer), counted from 0."""
        self.projectors = nn.ModuleDict()
        self._terms: list[LogitTerm | _HiddenTerm] = []
        problems: list[str] = []
        for at, (name, spec) in enumerate(zip(self.names, specs, strict=True)):
            try:
                if isinstance(spec, HiddenSpec):
                    pairs = layer_pairs(
                        spec.layers, student=student_layers, teacher=teacher_layers, place=f"objectives[{at}].layers"
                    )
                    self.layer_pairs[name] = pairs
                    self._terms.append(self._hidden_term(name, spec, pairs, student_widths, teacher_widths, seed))
                else:
                    self._terms.append(logit_term(name, spec, problem, place=f"objectives[{at}]"))
            except PlanError as error:
                problems += error.problems
        if problems:
            raise PlanError(problems)

    @property
    def wanted_student(self) -> Wanted:
        """What to ask the student for."""
        logits = any(isinstance(term, LogitTerm) for term in self._terms)
        return Wanted(logits=logits, hidden=self._hidden_keys(side=0))

    @property
    def wanted_teacher(self) -> Wanted:
        """What to ask the teacher for; nothing where only labels are read."""
        logits = any(isinstance(term, LogitTerm) and term.reads == "teacher" for term in self._terms)
        return Wanted(logits=logits, hidden=self._hidden_keys(side=1))

    @property
    def needs_teacher(self) -> bool:
        """Whether a term reads the teacher."""
        return any(isinstance(term, _HiddenTerm) or term.reads == "teacher" for term in self._terms)

    @property
    def needs_labels(self) -> bool:
        """Whether a term reads labels."""
        return any(isinstance(term, LogitTerm) and term.reads == "labels" for term in self._terms)

    def kept(self, labels: Tensor | None, batch_size: int, mask: Tensor | None) -> dict[str, int]:
        """What each term keeps of one micro-batch; sums of these over a step are `forward`'s `counts`.

        Rows for terms that read the teacher; labelled rows (multi-label: labelled cells) for terms that read labels;
        kept tokens for `hidden` with `pool: none`, from the student's attention `mask` [N, T] (after token dropout,
        if that masks), or rows where there is none, as for images.
        """
        return {
            name: self._kept(term, labels, batch_size, mask) for name, term in zip(self.names, self._terms, strict=True)
        }

    def forward(
        self, student: Signals, teacher: Signals | None, labels: Tensor | None, counts: Mapping[str, float]
    ) -> Loss:
        """Loss of one micro-batch, divided by the whole step's `counts` (by term name).

        `labels`: int64 [N] with -100, float32 [N, C] with NaN, or float32 [N] with NaN, where a row or cell has none;
        None: no labels at all. Raises TrainingError where signals are absent or do not match, and on non-finite
        values.
        """
        totals: list[Tensor] = []
        values: dict[str, Tensor] = {}
        logit_terms = [term for term in self._terms if isinstance(term, LogitTerm)]
        if logit_terms:
            logits = _present(student.logits, "the student's logits")
            rows = self._rows(logits)
            cells = logits.shape[1] if self.problem == "multi_label" else 1  # two-class rows that one row becomes
            shares = [
                self._against_labels(term.row, rows, labels, counts[term.row.name])
                if term.reads == "labels"
                else self._against_teacher(term.row, rows, teacher, counts[term.row.name] * cells)
                for term in logit_terms
            ]
            reduced = reduce_rows(rows, shares)
            totals.append(reduced.total)
            values |= {term.row.name: value for term, value in zip(logit_terms, reduced.values, strict=True)}
        for term in self._terms:
            if isinstance(term, _HiddenTerm):
                total, values[term.name] = _hidden_loss(term, student, teacher, counts[term.name])
                totals.append(total)
        return Loss(total=torch.stack(totals).sum(), terms={name: values[name] for name in self.names})

    def _hidden_term(
        self,
        name: str,
        spec: HiddenSpec,
        pairs: tuple[Pair, ...],
        student_widths: Mapping[int, int],
        teacher_widths: Mapping[int, int],
        seed: int,
    ) -> _HiddenTerm:
        distance = cosine_distance if spec.distance == "cosine" else mse_distance
        functions: dict[Pair, RowFunction] = {}
        for pair in pairs:
            widths = student_widths[pair[0]], teacher_widths[pair[1]]
            functions[pair] = distance
            if widths[0] != widths[1]:
                key = f"{name}_{pair[0]}_{pair[1]}"
                projector = make_projector(*widths, seed=seed, name=key)
                self.projectors[key] = projector
                functions[pair] = Projected(distance, projector)
        return _HiddenTerm(name, spec.weight, spec.pool, functions)

    def _hidden_keys(self, *, side: Literal[0, 1]) -> tuple[HiddenKey, ...]:
        terms = [term for term in self._terms if isinstance(term, _HiddenTerm)]
        return tuple(dict.fromkeys(HiddenKey(pair[side], term.pool) for term in terms for pair in term.functions))

    def _kept(self, term: LogitTerm | _HiddenTerm, labels: Tensor | None, batch_size: int, mask: Tensor | None) -> int:
        if isinstance(term, _HiddenTerm):
            return int(mask.bool().sum()) if term.pool == "none" and mask is not None else batch_size
        if term.reads == "teacher":
            return batch_size
        return 0 if labels is None else int(self._labelled(labels).sum())

    def _labelled(self, labels: Tensor) -> Tensor:
        return labels != NO_LABEL if self.problem == "single_label" else ~labels.isnan()

    def _no_labels(self, rows: Tensor) -> Tensor:
        missing = NO_LABEL if self.problem == "single_label" else float("nan")
        return torch.full((len(rows),), missing, device=rows.device)

    def _rows(self, logits: Tensor) -> Tensor:
        match self.problem:
            case "single_label":
                return logits
            case "multi_label":
                return 0.5 * torch.stack((logits, -logits), dim=-1).flatten(0, 1)
            case "regression":
                return logits.reshape(-1, 1)

    def _against_labels(self, term: RowTerm, rows: Tensor, labels: Tensor | None, kept: float) -> Share:
        flat = self._no_labels(rows) if labels is None else labels.reshape(-1)
        if len(flat) != len(rows):
            raise TrainingError(f"{term.name}: {len(flat)} labels do not fit {len(rows)} rows of logits")
        return Share(term, flat, self._labelled(flat), kept)

    def _against_teacher(self, term: RowTerm, rows: Tensor, teacher: Signals | None, kept: float) -> Share:
        target = self._rows(_present(None if teacher is None else teacher.logits, "the teacher's logits"))
        if target.shape != rows.shape:
            raise TrainingError(
                f"{term.name}: seen as rows, the student has {list(rows.shape)}, the teacher {list(target.shape)}; "
                "both need the same rows and outputs. Check their label maps."
            )
        return Share(term, target, None, kept)


def _names(kinds: Sequence[str]) -> tuple[str, ...]:
    names: list[str] = []
    for kind in kinds:
        candidates = (kind if number == 1 else f"{kind}_{number}" for number in count(1))
        names.append(next(name for name in candidates if name not in names))
    return tuple(names)


def _hidden_loss(term: _HiddenTerm, student: Signals, teacher: Signals | None, kept: float) -> tuple[Tensor, Tensor]:
    """Weighted total and plain value of one `hidden` term: the mean over its layer pairs."""
    totals: list[Tensor] = []
    values: list[Tensor] = []
    for (ours, theirs), function in term.functions.items():
        row = RowTerm(term.name, function, term.weight / len(term.functions))
        mine = _present(
            student.hidden.get(HiddenKey(ours, term.pool)), f"the student's hidden state {ours} ({term.pool})"
        )
        states = None if teacher is None else teacher.hidden.get(HiddenKey(theirs, term.pool))
        target, unit = _present(states, f"the teacher's hidden state {theirs} ({term.pool})"), 1
        if term.pool == "none":
            masks = student.mask, None if teacher is None else teacher.mask
            mine, target, unit = token_rows(mine, target, *masks, name=term.name)
        reduced = reduce_rows(mine, [Share(row, target, None, kept * unit)])
        totals.append(reduced.total)
        values += reduced.values
    return torch.stack(totals).sum(), torch.stack(values).mean()


def _present(signal: Tensor | None, what: str) -> Tensor:
    if signal is None:
        raise TrainingError(
            f"{what} were not asked for or not given; ask with `Terms.wanted_student` and `Terms.wanted_teacher`."
        )
    return signal
