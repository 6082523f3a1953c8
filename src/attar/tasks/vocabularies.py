"""Which of the teacher's tokens a student knows: ids are matched by the tokens behind them, never by their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch

from attar.errors import PlanError
from attar.known import Known
from attar.recipe.nearest import listed
from attar.recipe.objectives import CROSS_KINDS
from attar.tasks.base import Processor

_SHOWN = 5


def shared_outputs(student: Processor, teacher: Processor, *, student_width: int, teacher_width: int) -> Known | None:
    """For each of the student's logits the place of the same token among the teacher's, and for each token that the
    student lacks the one by which its tokenizer begins to spell it; None where all stand at the same place.

    Widths are those of the heads. A head that is padded beyond its tokenizer is cut where both are padded alike;
    otherwise, and where the student has a token that the teacher lacks, PlanError says which.
    """
    ours, theirs = (_by_id(tokenizer.get_vocab()) for tokenizer in (student, teacher))
    if ours == theirs and student_width == teacher_width:
        return None
    places = {token: number for number, token in theirs.items()}
    strangers = [token for token in ours.values() if token not in places]
    if strangers:
        moved = [f'"{token}"' for token in strangers]
        at = next(number for number in sorted({*ours, *theirs}) if ours.get(number) != theirs.get(number))
        raise PlanError(
            f"student: {len(strangers)} of its {len(ours)} tokens are unknown to the teacher's tokenizer: "
            f"{listed(moved, _SHOWN)}. The first id that differs is {at}: {_shown(ours, at)} for the student, "
            f"{_shown(theirs, at)} for the teacher. Logits are compared token by token; cut the student from the "
            "teacher (student.kind: from_teacher), use a student with the teacher's tokenizer, or objectives between "
            f"tokenizers: {', '.join(CROSS_KINDS)}."
        )
    if set(ours) != set(range(len(ours))):
        gap = min(set(range(len(ours))) - set(ours))
        raise PlanError(
            f"student: its tokenizer has no token of id {gap}, though larger ids are there, so its logits cannot be "
            "laid beside the teacher's. Use a student with the teacher's tokenizer (student.kind: from_teacher)."
        )
    padding = student_width - len(ours)
    if padding and padding != teacher_width - len(theirs):
        raise PlanError(
            f"student: its head is {student_width} wide for {len(ours)} tokens, the teacher's {teacher_width} for "
            f"{len(theirs)}: the rows beyond the tokens are padding and mean nothing to the other side. Cut the "
            "student's embeddings to its tokenizer (model.resize_token_embeddings(len(tokenizer)))."
        )
    behind = [places[ours[number]] for number in range(len(ours))]
    outputs, shared = [*behind, *range(teacher_width - padding, teacher_width)], set(behind)
    spelled = _spelled(student, teacher, {number: token for number, token in theirs.items() if number not in shared})
    others, starts = ([pair[side] for pair in spelled] for side in (0, 1))
    return Known(*(torch.tensor(numbers, dtype=torch.int64) for numbers in (outputs, others, starts)))


def _spelled(student: Processor, teacher: Processor, lost: Mapping[int, str]) -> list[tuple[int, int]]:
    """The teacher's number of each token that is lost, and the student's of the one that it then begins with. Tokens
    that are no part of texts are left out, and all where no backend tells how texts are spelled.
    """
    backend = getattr(student, "backend_tokenizer", None)
    if backend is None:
        return []
    special = cast("set[int]", set(getattr(teacher, "added_tokens_decoder", ())))
    spelled = (
        (number, backend.model.tokenize(token)) for number, token in sorted(lost.items()) if number not in special
    )
    return [(number, pieces[0].id) for number, pieces in spelled if pieces]


def knows_others(student: Processor, teacher: Processor) -> bool:
    """Has the student's tokenizer tokens that the teacher's lacks, so that logits cannot be compared one by one?"""
    return student is not teacher and bool(student.get_vocab().keys() - teacher.get_vocab().keys())


def _shown(tokens: Mapping[int, str], number: int) -> str:
    return f'"{tokens[number]}"' if number in tokens else "no token"


def _by_id(vocabulary: Mapping[str, int]) -> dict[int, str]:
    return {number: token for token, number in vocabulary.items()}
