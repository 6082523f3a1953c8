"""The objectives of a recipe as one module: the weighted sum of their terms, each term also by itself.

`Terms` turns specs into terms, says which signals they want, counts kept rows, and hands everything to the reduction.
Its only parameters are the projectors of its parts, which belong to the run: they are trained and checkpointed with
the student and never exported. Shape letters: N rows, C outputs, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import cast

from torch import Tensor, nn

from attar.errors import PlanError
from attar.objectives.own import OwnObjective
from attar.objectives.reduction.batch import reduce_batch
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.terms.courses import Courses, Moment
from attar.objectives.terms.logit_rows import Draw, LogitRows
from attar.objectives.terms.logits import LogitTerm, Problem, logit_term
from attar.objectives.terms.meeting import Meeting, TokenMaps
from attar.objectives.terms.part import Pair, Part
from attar.objectives.terms.parts import NO_PAIRS, make_part
from attar.recipe.objectives import AnyObjectiveSpec, LayeredSpec
from attar.recipe.targets import TargetsSpec
from attar.signals import NOTHING, Inside, Pool, Signals, Wanted


@dataclass(frozen=True)
class Loss:
    """`total`: the weighted sum, with its graph. `terms`: each term's share of the step's mean, unweighted, detached.

    Summed over the micro-batches and processes of a step, both are the step's.
    """

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Partner:
    """With mixup: the labels of the rows that were mixed in, a permutation of the batch's, so that counts are right."""

    labels: Tensor
    share: float
    """Of the rows' own labels."""


class Terms(nn.Module):
    """Weighted sum of the terms that `specs` ask for.

    `student` and `teacher` say what the models show of their inside (read by objectives that compare layers); what is
    learned to make them meet is drawn from `seed`. `chosen` are the pairs of `layers: cka`, by how states were pooled;
    `tokens` says how two vocabularies match, for objectives between tokenizers.
    `targets`: what a store holds of each token in the place of the teacher's logits (None: logits are there). Raises
    PlanError with every objective that does not fit `problem`, the models or the targets. How logits become rows, by
    `problem`: see `LogitRows`.
    """

    def __init__(
        self,
        specs: Sequence[AnyObjectiveSpec | OwnObjective],
        *,
        problem: Problem,
        student: Inside = NOTHING,
        teacher: Inside = NOTHING,
        chosen: Mapping[Pool, Sequence[Pair]] = NO_PAIRS,
        tokens: TokenMaps | None = None,
        targets: TargetsSpec | None = None,
        seed: int,
    ) -> None:
        super().__init__()
        self.names: tuple[str, ...] = _names([spec.kind for spec in specs])
        """One a term: its kind, `kind_2` where it stands there again."""
        self.parts = nn.ModuleDict()
        """By name: the terms that read more than logits."""
        self._rows = LogitRows(problem)
        self._logit_terms: dict[str, LogitTerm] = {}
        self.courses = Courses(dict(zip(self.names, specs, strict=True)))
        """What moves as training goes on."""
        self._seed = seed
        problems: list[str] = []
        for at, (name, spec) in enumerate(zip(self.names, specs, strict=True)):
            try:
                if isinstance(spec, LayeredSpec):
                    self.parts[name] = make_part(
                        name, spec, student, teacher, seed=seed, place=f"objectives[{at}]", chosen=chosen
                    )
                else:
                    self._logit_terms[name] = logit_term(
                        name, spec, problem, place=f"objectives[{at}]", tokens=tokens, targets=targets
                    )
            except PlanError as error:
                problems += error.problems
        if problems:
            raise PlanError(problems)

    @property
    def layer_pairs(self) -> dict[str, tuple[Pair, ...]]:
        """By name of each term that compares layers: (student layer, teacher layer), counted from 0."""
        return {name: part.pairs for name, part in self._parts() if part.pairs}

    @property
    def wanted_student(self) -> Wanted:
        """What to ask the student for."""
        logits = Wanted(logits=bool(self._logit_terms))
        return _joined([logits, *(part.wanted[0] for _, part in self._parts())])

    @property
    def wanted_teacher(self) -> Wanted:
        """What to ask the teacher for; nothing where only labels are read."""
        logits = Wanted(logits=any(term.reads_teacher for term in self._logit_terms.values()))
        return _joined([logits, *(part.wanted[1] for _, part in self._parts())])

    @property
    def needs_teacher(self) -> bool:
        """Whether a term reads the teacher."""
        return bool(self.parts) or any(term.reads_teacher for term in self._logit_terms.values())

    @property
    def needs_labels(self) -> bool:
        """Whether a term reads labels."""
        return any(term.reads_labels for term in self._logit_terms.values())

    @property
    def one_by_one(self) -> bool:
        """Whether a term compares logits token by token, so that both sides must tell the same ones."""
        return any(term.one_by_one for term in self._logit_terms.values())

    def kept(
        self,
        labels: Tensor | None,
        batch_size: int,
        mask: Tensor | None,
        meeting: Meeting | None = None,
        *,
        texts: int | None = None,
    ) -> dict[str, int]:
        """What each term keeps of one micro-batch; sums of these over a step are `forward`'s `counts`.

        Rows for terms that read the teacher; labelled rows (multi-label: labelled cells) for terms that read labels;
        kept tokens for `hidden` with `pool: none`, from the student's attention `mask` [N, T] (after token dropout,
        if that masks), or rows where there is none, as for images; for terms between two tokenizers what is of
        `meeting`: beginnings of spans, or tokens in spans. `texts`: of language models, whose `batch_size` rows of
        logits are tokens: how many inputs these are of, N, which is what other terms than those on logits have as rows.
        """
        inputs = batch_size if texts is None else texts
        kept = {name: part.kept(inputs, mask) for name, part in self._parts()}
        kept |= {name: self._rows.kept(term, labels, batch_size, meeting) for name, term in self._logit_terms.items()}
        return {name: kept[name] for name in self.names}

    def forward(
        self,
        student: Signals,
        teacher: Signals | None,
        labels: Tensor | None,
        counts: Mapping[str, float],
        *,
        progress: float = 1.0,
        rows: Tensor | None = None,
        alone: str | None = None,
        partner: Partner | None = None,
        meeting: Meeting | None = None,
        written: bool = False,
    ) -> Loss:
        """Loss of one micro-batch, divided by the whole step's `counts` (by term name).

        `labels`: int64 [N] with -100, float32 [N, C] with NaN, or float32 [N] with NaN, where a row or cell has none;
        None: no labels at all. `progress`: share of the training that is behind, in 0..1, the same for all of a step's
        micro-batches; the default is the end, as an evaluation sees it. `rows`: int64 [N], numbers that tell the
        training's rows apart, for terms that draw at random. `alone`: the term that makes up the total, at weight 1.
        `written`: the student wrote this text itself. `partner`: with mixup, the other labels; terms that read labels
        are the mean of both by their shares. `meeting`: where two tokenizers meet; the teacher's logits are then of
        its own tokens. Raises TrainingError where signals are absent or do not match, and on non-finite values.
        """
        moment = replace(self.courses.at(progress), written=written)
        if alone is not None:
            moment = replace(moment, weights={name: float(name == alone) for name in self.names})
        total, values = self._on_logits(student, teacher, labels, counts, moment, rows, meeting)
        if partner is not None and self.needs_labels:
            other, theirs = self._on_logits(student, teacher, partner.labels, counts, moment, rows)
            share, rest = partner.share, 1.0 - partner.share
            total = share * total + rest * other
            values = {name: share * value + rest * theirs[name] for name, value in values.items()}
        for name, part in self._parts():
            reduced = part(student, teacher, counts[name])
            total = total + moment.weights[name] * reduced.total
            values[name] = reduced.values[0]
        return Loss(total=cast("Tensor", total), terms={name: values[name] for name in self.names})

    def _on_logits(
        self,
        student: Signals,
        teacher: Signals | None,
        labels: Tensor | None,
        counts: Mapping[str, float],
        moment: Moment,
        rows: Tensor | None,
        meeting: Meeting | None = None,
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """Weighted sum of the terms on logits (0 where there is none), and the plain value of each."""
        values: dict[str, Tensor] = {}
        if not self._logit_terms:
            return 0.0, values
        total: Tensor | float = 0.0
        logits, shares = self._rows.shares(
            self._logit_terms, student, teacher, labels, counts, moment, Draw(self._seed, rows), meeting
        )
        by_row = [name for name in shares if self._logit_terms[name].form == "row"]
        if by_row:
            reduced = reduce_rows(logits, [shares[name] for name in by_row])
            total = reduced.total
            values |= dict(zip(by_row, reduced.values, strict=True))
        for name in [name for name in shares if name not in by_row]:
            whole = reduce_batch(logits, shares[name])
            total = total + whole.total
            values[name] = whole.values[0]
        return total, values

    def moving(self, progress: float) -> dict[str, float]:
        """For the log: what schedules say where `progress` of the training is behind (see `Courses.moving`)."""
        return self.courses.moving(progress)

    def _parts(self) -> list[tuple[str, Part]]:
        return [(name, cast("Part", part)) for name, part in self.parts.items()]


def _joined(wanted: Iterable[Wanted]) -> Wanted:
    found = list(wanted)
    hidden = dict.fromkeys(key for one in found for key in one.hidden)
    attention = dict.fromkeys(key for one in found for key in one.attention)
    return Wanted(any(one.logits for one in found), tuple(hidden), tuple(attention))


def _names(kinds: Sequence[str]) -> tuple[str, ...]:
    names: list[str] = []
    for kind in kinds:
        candidates = (kind if number == 1 else f"{kind}_{number}" for number in count(1))
        names.append(next(name for name in candidates if name not in names))
    return tuple(names)
