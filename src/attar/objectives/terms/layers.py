"""Which hidden state of the student learns from which of the teacher, and how their rows and widths are made to meet.

Hidden states are counted as Transformers does: 0 is the embeddings' output, L the last layer's.
Shape letters: N rows, T tokens (or pixels), D width, K kept tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.errors import PlanError, TrainingError
from attar.logits import arithmetic
from attar.objectives.learned import own_generator
from attar.objectives.terms.part import Pair
from attar.recipe.objectives.feature import Layers, evenly_spaced, is_layer


def layer_pairs(
    layers: Layers,
    *,
    student: int,
    teacher: int,
    place: str,
    first: Literal[0, 1] = 0,
    chosen: Sequence[Pair] | None = None,
) -> tuple[Pair, ...]:
    """Resolve a layer map for models whose last layers are `student` and `teacher`, counted from `first`.

    Hidden states are counted from 0, attention layers from 1. `last`: the last with the last. `uniform`: see
    `evenly_spaced`. `cka`: the pairs that were `chosen`. Explicit pairs may count from the end (-1 is the last). Raises
    PlanError with every pair that is out of range, starting with `place` (the option's path in the recipe).
    """
    what = "attention layer" if first else "hidden state"
    if layers in ("uniform", "cka") and not (student and teacher):
        raise PlanError(f"{place}: `{layers}` needs layers; the student has {student}, the teacher {teacher}.")
    if layers == "last":
        return ((student, teacher),)
    if layers == "uniform":
        return evenly_spaced(student, teacher)
    if layers == "cka":
        if chosen is None:
            raise PlanError(f"{place}: `cka` needs rows to compare layers on, and none were given. Name the pairs.")
        layers = tuple(chosen)
    if not layers:
        raise PlanError(f"{place}: no pairs. Give at least one [student layer, teacher layer], or `last` or `uniform`.")
    problems: list[str] = []
    for at, pair in enumerate(layers):
        for side, layer, last in (("student", pair[0], student), ("teacher", pair[1], teacher)):
            if not is_layer(layer, last, first=first):
                zero = "1" if first else "0 (the embeddings' output)"
                problems.append(
                    f"{place}[{at}]: the {side} has no {what} {layer}; allowed are {zero} to {last}, or -1 (the last) "
                    f"to -{last + 1 - first}."
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
    nn.init.kaiming_uniform_(projector.weight, a=math.sqrt(5), generator=own_generator(seed, name))
    return projector


def project(states: Tensor, projector: nn.Linear | None) -> Tensor:
    """[n, D_s] -> [n, D_t] in the reduction's precision, whatever autocast says; unchanged without a projector."""
    if projector is None:
        return states
    with torch.autocast(states.device.type, enabled=False):
        full = arithmetic(states)
        return functional.linear(full, projector.weight.to(full.dtype))


def token_rows(
    student: Tensor, teacher: Tensor, student_mask: Tensor | None, teacher_mask: Tensor | None, *, name: str
) -> tuple[Tensor, Tensor, int]:
    """Kept tokens of two hidden states [N, T, D] as rows [K, D], and what one unit of the term's count stands for.

    Without a student mask every row has T tokens and the count is in rows (1 unit = T tokens); else it is in tokens.
    Raises TrainingError where the two sides do not have the same tokens.
    """
    unit = student.shape[1] if student_mask is None else 1
    masks = _same_tokens(student, teacher, student_mask, teacher_mask, name)
    if masks is None:
        return student.flatten(0, 1), teacher.flatten(0, 1), unit
    return student[masks[0]], teacher[masks[1]], unit


def tokens_in_place(
    student: Tensor, teacher: Tensor, student_mask: Tensor | None, teacher_mask: Tensor | None, *, name: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both sides [N, T, D] with the same tokens in the same places, and which places count (None: all).

    Where the padding differs, tokens that count are moved to the front. Raises as `token_rows`.
    """
    masks = _same_tokens(student, teacher, student_mask, teacher_mask, name)
    if masks is None:
        return student, teacher, None
    ours, theirs = masks
    if ours is theirs:
        return student, teacher, ours
    counts = ours.sum(1)
    keep = torch.arange(int(counts.max()) if len(counts) else 0, device=counts.device) < counts.unsqueeze(1)
    return _moved(student, ours, keep), _moved(teacher, theirs, keep), keep


def _same_tokens(
    student: Tensor, teacher: Tensor, student_mask: Tensor | None, teacher_mask: Tensor | None, name: str
) -> tuple[Tensor, Tensor] | None:
    """Which tokens of each side count, the same ones; None: all of both.

    Where the shapes agree the student's mask decides (it may hide tokens that the teacher sees); where the padding
    differs, each side's own.
    """
    if student_mask is None and teacher_mask is None and student.shape[:2] == teacher.shape[:2]:
        return None
    ours, theirs = _mask(student, student_mask), _mask(teacher, teacher_mask)
    if ours.shape == theirs.shape and bool((ours <= theirs).all()):
        return ours, ours
    have, need = ours.sum(1), theirs.sum(1)
    if have.shape != need.shape or not torch.equal(have, need):
        row = int((have != need).nonzero()[0, 0]) if have.shape == need.shape else 0
        raise TrainingError(
            f"{name}: row {row} has {int(have[row])} tokens for the student, but {int(need[row])} for the teacher; "
            "it compares token by token (pool: none, or attention). Pool the states, or use one tokenizer for both."
        )
    return ours, theirs


def _moved(states: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
    moved = states.new_zeros(*keep.shape, states.shape[2])
    moved[keep] = states[mask]
    return moved


def _mask(state: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones(state.shape[:2], dtype=torch.bool, device=state.device) if mask is None else mask.bool()
