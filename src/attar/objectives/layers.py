"""Which hidden state of the student learns from which of the teacher, and how their rows and widths are made to meet.

Hidden states are counted as Transformers does: 0 is the embeddings' output, L the last layer's.
Shape letters: N rows, T tokens (or pixels), D width, K kept tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.errors import PlanError, TrainingError
from attar.hashing import hash_value
from attar.objectives.reduction import RowFunction

Pair = tuple[int, int]
"""(student layer, teacher layer), both counted from 0."""


def layer_pairs(
    layers: Literal["last", "uniform"] | Sequence[tuple[int, int]], *, student: int, teacher: int, place: str
) -> tuple[Pair, ...]:
    """Resolve a layer map for models with `student` and `teacher` layers (so hidden states 0..student and 0..teacher).

    `last`: the last with the last. `uniform`: student layers 1..L_s, layer i with teacher layer i L_t / L_s, rounded
    half up, at least 1. Explicit pairs may count from the end (-1 is the last). Raises PlanError with every pair that
    is out of range, starting with `place` (the option's path in the recipe).
    """
    if layers == "last":
        return ((student, teacher),)
    if layers == "uniform":
        if not student or not teacher:
            raise PlanError(f"{place}: `uniform` needs layers; the student has {student}, the teacher {teacher}.")
        return tuple((i, max(1, (2 * i * teacher + student) // (2 * student))) for i in range(1, student + 1))
    if not layers:
        raise PlanError(f"{place}: no pairs. Give at least one [student layer, teacher layer], or `last` or `uniform`.")
    problems: list[str] = []
    for at, pair in enumerate(layers):
        for side, layer, last in (("student", pair[0], student), ("teacher", pair[1], teacher)):
            if not -(last + 1) <= layer <= last:
                problems.append(
                    f"{place}[{at}]: the {side} has no hidden state {layer}; allowed are 0 (the embeddings' output) to "
                    f"{last}, or -1 (the last) to -{last + 1}."
                )
    if problems:
        raise PlanError(problems)
    return tuple((s % (student + 1), t % (teacher + 1)) for s, t in layers)


def make_projector(student_width: int, teacher_width: int, *, seed: int, name: str) -> nn.Linear:
    """A learned map from the student's width to the teacher's, without bias, as torch initialises it.

    Drawn from its own generator (`seed` and `name`), so it neither reads nor moves the global random state, and does
    not depend on what else is trained.
    """
    projector = cast("nn.Linear", nn.utils.skip_init(nn.Linear, student_width, teacher_width, bias=False))
    generator = torch.Generator().manual_seed(int(hash_value([seed, name]), 16) % 2**63)
    nn.init.kaiming_uniform_(projector.weight, a=math.sqrt(5), generator=generator)
    return projector


@dataclass(frozen=True)
class Projected:
    """A row function that looks at the student through a projector, in the reduction's precision."""

    distance: RowFunction
    projector: nn.Linear

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """[n, D_s], [n, D_t] -> [n]."""
        return self.distance(functional.linear(student, self.projector.weight.to(student.dtype)), teacher)


def token_rows(
    student: Tensor, teacher: Tensor, student_mask: Tensor | None, teacher_mask: Tensor | None, *, name: str
) -> tuple[Tensor, Tensor, int]:
    """Kept tokens of two hidden states [N, T, D] as rows [K, D], and what one unit of the term's count stands for.

    Without a student mask every row has T tokens and the count is in rows (1 unit = T tokens); else it is in tokens.
    Where the shapes agree the student's mask decides (it may hide tokens that the teacher sees); where the padding
    differs, each side's own. Raises TrainingError where the two sides do not have the same tokens.
    """
    if student_mask is None and teacher_mask is None and student.shape[:2] == teacher.shape[:2]:
        return student.flatten(0, 1), teacher.flatten(0, 1), student.shape[1]
    unit = student.shape[1] if student_mask is None else 1
    ours, theirs = _mask(student, student_mask), _mask(teacher, teacher_mask)
    if ours.shape == theirs.shape and bool((ours <= theirs).all()):
        return student[ours], teacher[ours], unit
    have, need = ours.sum(1), theirs.sum(1)
    if have.shape != need.shape or not torch.equal(have, need):
        row = int((have != need).nonzero()[0, 0]) if have.shape == need.shape else 0
        raise TrainingError(
            f"{name}: row {row} has {int(have[row])} tokens for the student, but {int(need[row])} for the teacher; "
            "`pool: none` compares token by token. Use `pool: mean` or `pool: first`, or one tokenizer for both."
        )
    return student[ours], teacher[theirs], unit


def _mask(state: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones(state.shape[:2], dtype=torch.bool, device=state.device) if mask is None else mask.bool()
