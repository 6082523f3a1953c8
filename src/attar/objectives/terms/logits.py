"""From a spec to a row function: every objective on logits, by the task's problem.

One `match`, no registry: a new kind does not type-check until it stands here. Shape letters: N rows, C outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, assert_never

from torch import Tensor

from attar.errors import PlanError
from attar.objectives.crosstoken import aligned, projected_kl, span_kl, uld
from attar.objectives.from_dense import drawn_kl, top_k_kl, top_k_reverse_kl
from attar.objectives.own import OwnObjective
from attar.objectives.reduction.share import RowFunction, Term
from attar.objectives.response import (
    adaptive_kl,
    alpha_beta,
    contrastive_skew,
    dist,
    dkd,
    forward_kl,
    jsd,
    logit_mse,
    ofa,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    taid,
    todi,
    total_variation,
)
from attar.objectives.sparse import sampled_kl, sparse_kl
from attar.objectives.supervised import binary_cross_entropy, cross_entropy, squared_error
from attar.objectives.terms.meeting import TokenMaps
from attar.recipe.objectives import (
    AdaptiveKLSpec,
    AlignedSpec,
    AlphaBetaSpec,
    ContrastiveSkewSpec,
    DistributionSpec,
    DISTSpec,
    DKDSpec,
    ForwardKLSpec,
    HardLabelsSpec,
    JSDSpec,
    LabelledSpec,
    LogitMSESpec,
    OFASpec,
    OnDistributions,
    OnLists,
    OnTwoTokenizers,
    ProjectedKLSpec,
    ResponseSpec,
    ReverseKLSpec,
    SampledKLSpec,
    SkewKLSpec,
    SkewReverseKLSpec,
    SpanKLSpec,
    SparseKLSpec,
    SparseReverseKLSpec,
    SparseSpec,
    TAIDSpec,
    ToDiSpec,
    TotalVariationSpec,
    ULDSpec,
)
from attar.recipe.targets import TargetsSpec, unfit

Problem = Literal["single_label", "multi_label", "regression"]
LogitSpec = OnDistributions | OnLists | OnTwoTokenizers | LogitMSESpec | HardLabelsSpec | OwnObjective


@dataclass(frozen=True)
class LogitTerm:
    """A term that reads the student's logits, and what else its function is given."""

    row: Term
    """At weight and temperature 1; the step's own are put in its place."""
    reads: Literal["teacher", "labels", "both"]
    form: Literal["row", "batch"] = "row"
    progress: bool = False
    """Whether the function takes the keyword `progress`, a number."""
    keys: bool = False
    """Whether it takes the keyword `keys`, a number a row to draw from."""
    authors: bool = False
    """Whether it takes the keyword `on_policy`, bool a row: is it text that the student wrote?"""
    across: Literal["beginnings", "spans"] | None = None
    """Of what is compared between two tokenizers: the rows where spans begin, or all rows of spans, each with what the
    span's other tokens are worth. None: both sides have the same tokens.
    """

    @property
    def one_by_one(self) -> bool:
        """Whether it lays the teacher's tokens beside the student's."""
        return self.reads_teacher and self.across is None

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher's logits are its target."""
        return self.reads != "labels"

    @property
    def reads_labels(self) -> bool:
        """Whether it reads labels, as its target or (reading both) by the keyword `labels`: labelled rows only."""
        return self.reads != "teacher"


def logit_term(
    name: str,
    spec: LogitSpec,
    problem: Problem,
    *,
    place: str,
    tokens: TokenMaps | None = None,
    targets: TargetsSpec | None = None,
) -> LogitTerm:
    """One spec as a term called `name`; `targets`: what is stored of a token in the place of logits (None: logits).

    `tokens`: how two vocabularies match, for objectives between tokenizers. Raises PlanError, which starts with
    `place`, if it means nothing here.
    """
    _require_meaning(spec, problem, place)
    if targets is not None and not isinstance(spec, HardLabelsSpec):
        if (found := unfit(spec, targets)) is not None:
            raise PlanError(f"{place}.{found[0]}: {found[1]}")
        function = sparse_kl if isinstance(spec, SparseKLSpec) else sampled_kl
        return LogitTerm(Term(name, function, temperature_power=2, listed=True), "teacher")
    match spec:
        case HardLabelsSpec():
            return LogitTerm(Term(name, _label_function(problem, spec.label_smoothing)), "labels")
        case OwnObjective():
            row = Term(name, spec.fn, temperature_power=spec.temperature_power)
            reads = "both" if spec.needs_labels else "teacher"
            return LogitTerm(row, reads, progress=spec.needs_progress)
        case LogitMSESpec():
            function = partial(logit_mse, centre=problem != "regression")
            return LogitTerm(Term(name, function, standardise=spec.standardise), "teacher")
        case SparseKLSpec() | SparseReverseKLSpec() | SampledKLSpec():
            row = Term(name, _on_lists(spec), temperature_power=2)
            return LogitTerm(row, "teacher", keys=isinstance(spec, SampledKLSpec))
        case ULDSpec() | AlignedSpec() | ProjectedKLSpec() | SpanKLSpec():
            row = Term(name, _on_two_tokenizers(spec, tokens), temperature_power=int(isinstance(spec, ULDSpec)))
            return LogitTerm(row, "teacher", across="spans" if isinstance(spec, SpanKLSpec) else "beginnings")
        case _:
            function, power = _on_distributions(spec), _power(spec)
            row = Term(name, function, temperature_power=power, standardise=spec.standardise)
            reads = "both" if spec.needs_labels else "teacher"
            return LogitTerm(
                row, reads, spec.form, progress=isinstance(spec, TAIDSpec),
                authors=isinstance(spec, ContrastiveSkewSpec),
            )  # fmt: skip


def _power(spec: OnDistributions) -> int:
    """Of the temperature, by which a term is multiplied so that its gradient keeps its size."""
    match spec:
        case TotalVariationSpec():
            return 1
        case DISTSpec():
            return 0
        case _:
            return 2


def _on_lists(spec: OnLists) -> RowFunction:
    match spec:
        case SparseKLSpec():
            return partial(top_k_kl, k=spec.k)
        case SparseReverseKLSpec():
            return partial(top_k_reverse_kl, k=spec.k)
        case SampledKLSpec():
            return partial(drawn_kl, samples=spec.samples, proposal_temperature=spec.proposal_temperature)


def _on_two_tokenizers(spec: OnTwoTokenizers, tokens: TokenMaps | None) -> RowFunction:
    match spec:
        case ULDSpec():
            return partial(uld, top=spec.top)
        case AlignedSpec():
            known = {} if tokens is None else {"matched": tokens.matched}
            return partial(aligned, share=spec.share, top=spec.top, **known)
        case ProjectedKLSpec():
            return projected_kl if tokens is None else partial(projected_kl, projection=tokens.projection)
        case SpanKLSpec():
            return span_kl


def _on_distributions(spec: OnDistributions) -> RowFunction:
    match spec:
        case ForwardKLSpec():
            return forward_kl
        case ReverseKLSpec():
            return reverse_kl
        case JSDSpec() | SkewKLSpec() | SkewReverseKLSpec() | ContrastiveSkewSpec():
            return _on_mixtures(spec)
        case AdaptiveKLSpec():
            return partial(adaptive_kl, head=spec.head)
        case ToDiSpec():
            return todi
        case AlphaBetaSpec():
            return partial(alpha_beta, alpha=spec.alpha, beta=spec.beta)
        case TotalVariationSpec():
            return total_variation
        case TAIDSpec():
            return taid
        case DKDSpec() | OFASpec():
            return _on_labels(spec)
        case DISTSpec():
            return partial(dist, beta=spec.beta, gamma=spec.gamma)
        case _:
            assert_never(spec)


def _on_mixtures(spec: JSDSpec | SkewKLSpec | SkewReverseKLSpec | ContrastiveSkewSpec) -> RowFunction:
    match spec:
        case JSDSpec():
            return partial(jsd, beta=spec.beta)
        case SkewKLSpec():
            return partial(skew_kl, alpha=spec.alpha)
        case SkewReverseKLSpec():
            return partial(skew_reverse_kl, alpha=spec.alpha)
        case ContrastiveSkewSpec():
            return partial(contrastive_skew, alpha=spec.alpha)


def _on_labels(spec: DKDSpec | OFASpec) -> RowFunction:
    match spec:
        case DKDSpec():
            return partial(dkd, alpha=spec.alpha, beta=spec.beta)
        case OFASpec():
            return partial(ofa, gamma=spec.gamma)


def _require_meaning(spec: LogitSpec, problem: Problem, place: str) -> None:
    if problem == "regression" and isinstance(spec, DistributionSpec | SparseSpec):
        raise PlanError(
            f"{place}.kind: {spec.kind} compares distributions, but a regression answers with one number. "
            "Use logit_mse, hidden or hard_labels."
        )
    if problem == "multi_label" and isinstance(spec, LabelledSpec | DISTSpec):
        raise PlanError(
            f"{place}.kind: {spec.kind} compares classes of which one is right, but the task is multi_label. Use "
            "forward_kl."
        )
    if problem == "regression" and isinstance(spec, HardLabelsSpec) and spec.label_smoothing:
        raise PlanError(
            f"{place}.label_smoothing: {spec.label_smoothing} means nothing for a regression; it must be 0."
        )
    if problem != "single_label" and isinstance(spec, ResponseSpec) and spec.standardise:
        raise PlanError(
            f"{place}.standardise: a {problem} row has too few logits for a z-score. Remove it, or use single_label."
        )


def _label_function(problem: Problem, label_smoothing: float) -> RowFunction:
    match problem:
        case "single_label":
            return partial(cross_entropy, label_smoothing=label_smoothing)
        case "multi_label":
            return partial(_two_class_entropy, label_smoothing=label_smoothing)
        case "regression":
            return _number_error


def _two_class_entropy(rows: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    return binary_cross_entropy(rows[:, 0] - rows[:, 1], labels, label_smoothing=label_smoothing)


def _number_error(rows: Tensor, labels: Tensor) -> Tensor:
    return squared_error(rows[:, 0], labels)
