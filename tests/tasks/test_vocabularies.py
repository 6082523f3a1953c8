"""Which of the teacher's tokens a student knows: by the tokens themselves, whatever their numbers."""

from __future__ import annotations

import pytest
import torch

from attar.errors import PlanError
from attar.students.vocabulary import reduce_vocabulary
from attar.tasks.vocabularies import shared_outputs
from tiny_language import TEXTS, tiny_bpe


class Words:
    """A tokenizer as far as its vocabulary goes."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}


def test_the_same_tokens_need_no_map() -> None:
    assert shared_outputs(Words("a", "b"), Words("a", "b"), student_width=2, teacher_width=2) is None
    assert shared_outputs(Words("a", "b"), Words("a", "b"), student_width=8, teacher_width=8) is None


def test_tokens_that_moved_are_found() -> None:
    found = shared_outputs(Words("c", "a"), Words("a", "b", "c"), student_width=2, teacher_width=3)
    assert found is not None
    assert found.outputs.tolist() == [2, 0]
    assert len(found.others) == 0


def test_a_reduced_vocabulary_is_found_in_its_teacher_s() -> None:
    teacher = tiny_bpe()
    reduced = reduce_vocabulary(teacher, TEXTS[:2])
    found = shared_outputs(reduced.tokenizer, teacher, student_width=len(reduced.kept), teacher_width=len(teacher))
    assert found is not None
    assert torch.equal(found.outputs, torch.tensor(reduced.kept))


def test_a_token_that_is_lacking_begins_as_the_student_spells_it() -> None:
    """By the texts themselves: a word of the teacher's begins with what the student's tokenizer begins it with."""
    teacher = tiny_bpe()
    ours = reduce_vocabulary(teacher, TEXTS[:2]).tokenizer
    found = shared_outputs(ours, teacher, student_width=len(ours), teacher_width=len(teacher))
    assert found is not None
    lost = sorted(set(range(len(teacher))) - set(found.outputs.tolist()))
    assert found.others.tolist() == lost != []
    words = [(number, teacher.decode([number])) for number in lost if teacher.decode([number]).isascii()]
    starts = dict(zip(found.others.tolist(), found.starts.tolist(), strict=True))
    assert [starts[number] for number, _ in words] == [ours(word)["input_ids"][0] for _, word in words]


def test_padding_alike_on_both_sides_is_kept() -> None:
    found = shared_outputs(Words("b", "a"), Words("a", "b", "c"), student_width=3, teacher_width=4)
    assert found is not None
    assert found.outputs.tolist() == [1, 0, 3]


def test_what_cannot_be_compared_is_told() -> None:
    with pytest.raises(PlanError, match="1 of its 2 tokens are unknown"):
        shared_outputs(Words("a", "z"), Words("a", "b"), student_width=2, teacher_width=2)
    with pytest.raises(PlanError, match=r'The first id that differs is 1: "z" for the student, "b" for the teacher'):
        shared_outputs(Words("a", "z"), Words("a", "b"), student_width=2, teacher_width=2)
    holes = Words("a")
    holes.get_vocab = lambda: {"a": 1}  # type: ignore[method-assign]
    with pytest.raises(PlanError, match="its tokenizer has no token of id 0"):
        shared_outputs(holes, Words("a", "b"), student_width=2, teacher_width=2)
    with pytest.raises(PlanError, match="its head is 4 wide for 2 tokens, the teacher's 2 for 2"):
        shared_outputs(Words("a", "b"), Words("a", "b"), student_width=4, teacher_width=2)
