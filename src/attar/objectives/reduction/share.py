"""What a term is, its share in a micro-batch, and both sides as its function sees them.

Shape letters: N rows, V outputs or width, n rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from attar.errors import TrainingError
from attar.logits import Rows
from attar.mixture import Told
from attar.objectives.transform import standardise_logits

RowFunction = Callable[..., Tensor]
"""(student rows [n, V], target rows [n, ...], **given) -> [n]. Targets: the teacher's rows, or labels. n may be 0."""


@dataclass(frozen=True)
class Term:
    """An objective, of rows or of a batch, and what the reduction applies to it."""

    name: str
    function: RowFunction
    weight: float = 1.0
    temperature: float = 1.0
    """Both sides are divided by it."""
    temperature_power: int = 0
    """Multiply by this power of it, so that the gradient keeps its size: 2 for KL and its like, 1 for distances."""
    standardise: bool = False
    """Z-score both sides first."""
    listed: bool = False
    """The target is a list of some tokens' log-probabilities, at the temperature already, not logits of all outputs."""


@dataclass(frozen=True)
class Share:
    """One term's share in a micro-batch: what it compares the student's rows with, which rows, and its denominator."""

    term: Term
    target: Told
    """[N, ...]; never receives a gradient."""
    keep: Tensor | None
    """bool [N]; None keeps all rows."""
    count: float
    """Kept rows of the whole step (all micro-batches, all processes)."""
    given: Mapping[str, Tensor | float] = field(default_factory=dict[str, "Tensor | float"])
    """What else the function takes, by keyword: tensors [N, ...] are cut like the rows, numbers go as they are."""


@dataclass(frozen=True)
class Reduced:
    """`total`: the weighted sum, a scalar with its graph. `values`: each share's sum / count, unweighted, detached."""

    total: Tensor
    values: list[Tensor]


def sides(
    share: Share, block: Tensor, target: Tensor, rows: Rows
) -> tuple[Tensor, Tensor, Mapping[str, Tensor | float], Tensor | None]:
    """Both sides as the function sees them, what else it is given, and which rows of the block it keeps.

    Raises TrainingError where the sides have not the same rows.
    """
    term = share.term
    inner = None if share.keep is None else share.keep[rows]
    given = {name: value[rows] if isinstance(value, Tensor) else value for name, value in share.given.items()}
    student = block
    if inner is not None:
        student, target = block[inner], target[inner]
        given = {name: value[inner] if isinstance(value, Tensor) else value for name, value in given.items()}
    if len(student) != len(target):
        raise TrainingError(f"{term.name}: {len(student)} student rows, but {len(target)} target rows")
    if term.standardise:
        student, target = standardise_logits(student), standardise_logits(target)
    if term.temperature != 1.0:
        student = student / term.temperature
        target = target if term.listed else target / term.temperature
    return student, target, given, inner
