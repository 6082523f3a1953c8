"""Sums over tokens: against dense logits in float64 for every kind of student, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset

from attar.errors import TrainingError
from attar.evaluation.language import agreement, evaluate_language, perplexity
from attar.evaluation.tokens import COLUMN, Reader, ask_about_rows
from attar.known import Known
from attar.recipe.outcome import ReportSpec
from attar.recipe.task import CausalLMSpec
from attar.students.vocabulary import reduce_vocabulary
from attar.tasks.causal_lm import CausalLM
from tiny_language import TEXTS, tiny_bpe, tiny_llama

TASK = CausalLM(CausalLMSpec(kind="causal_lm", max_length=16))
TOKENIZER = tiny_bpe()
TEACHER = tiny_llama(TOKENIZER)
ROWS = Dataset.from_dict({"text": [*TEXTS[:6], " ".join(TEXTS[6:10]), "zoology, 42 quizzes"], "slice": [*"aaabbbbb"]})


def reader(model: torch.nn.Module, tokenizer: object = TOKENIZER, known: Known | None = None) -> Reader:
    return Reader(model, TASK.encode(ROWS, tokenizer), tokenizer, known)


def surprise(model: torch.nn.Module, tokenizer: object) -> np.ndarray:
    """Of each row, by dense logits of each piece in float64."""
    encoded, found = TASK.encode(ROWS, tokenizer), np.zeros(len(ROWS))
    copy = type(model)(model.config).double().eval()
    copy.load_state_dict(model.state_dict())
    for ids, owner in zip(encoded.inputs["input_ids"], encoded.owners, strict=True):
        row = torch.from_numpy(ids)[None]
        with torch.no_grad():
            told = copy(row).logits[0, :-1].log_softmax(-1)
        found[owner] -= float(told.gather(1, row[0, 1:, None]).sum())
    return found


@pytest.mark.parametrize("budget", [16, 40, 10_000])
def test_sums_are_those_of_dense_logits_whatever_the_batches(budget: int) -> None:
    student = tiny_llama(TOKENIZER, hidden=16, layers=1, seed=3)
    found = ask_about_rows({"student": reader(student)}, reader(TEACHER), TASK, len(ROWS), batch_tokens=budget)
    np.testing.assert_allclose(found["teacher"][:, COLUMN.nll], surprise(TEACHER, TOKENIZER), rtol=1e-4)
    np.testing.assert_allclose(found["student"][:, COLUMN.nll], surprise(student, TOKENIZER), rtol=1e-4)
    assert found["student"][:, COLUMN.tokens].tolist() == found["student"][:, COLUMN.compared].tolist()
    assert (found["student"][:, COLUMN.kl] > 0).all()
    itself = ask_about_rows({"student": reader(TEACHER)}, reader(TEACHER), TASK, len(ROWS))["student"]
    np.testing.assert_allclose(itself[:, COLUMN.kl], 0, atol=1e-4)
    assert agreement(itself) == 1.0


def test_a_student_that_cuts_a_text_otherwise_is_still_asked_about_all_of_it() -> None:
    """Its vocabulary lacks the last rows' words: their surprise counts, their tokens are not compared one by one."""
    reduced = reduce_vocabulary(TOKENIZER, TEXTS[:3])
    student = tiny_llama(reduced.tokenizer, hidden=16, layers=1, seed=3)
    ours = reader(student, reduced.tokenizer, Known(torch.tensor(reduced.kept)))
    assert len(ours.encoded) > len(reader(TEACHER).encoded)
    found = ask_about_rows({"student": ours}, reader(TEACHER), TASK, len(ROWS), batch_tokens=40)
    np.testing.assert_allclose(found["student"][:, COLUMN.nll], surprise(student, reduced.tokenizer), rtol=1e-4)
    compared = found["student"][:, COLUMN.compared]
    assert (compared[:3] == found["student"][:3, COLUMN.tokens]).all()
    assert compared.sum() < found["student"][:, COLUMN.tokens].sum()
    facts = evaluate_language(
        TASK, {"teacher": [found["teacher"]], "student": [found["student"]]}, {}, ROWS, ReportSpec(bootstrap=100)
    )
    assert any("cuts the text otherwise" in note for note in facts.notes)
    assert [one.name for one in facts.slices] == ["a", "b"]
    assert facts.quality.student == pytest.approx(perplexity(found["student"]))
    assert facts.quality.teacher == pytest.approx(
        np.exp(found["teacher"][:, COLUMN.nll].sum() / found["teacher"][:, COLUMN.tokens].sum())
    )
    assert facts.retention is not None
    assert facts.retention.value == pytest.approx(facts.quality.teacher / facts.quality.student)


def test_models_keep_their_mode_and_a_row_without_probability_is_named() -> None:
    student = tiny_llama(TOKENIZER, hidden=16, layers=1).train()
    ask_about_rows({"student": reader(student)}, reader(TEACHER), TASK, len(ROWS))
    assert student.training
    with torch.no_grad():
        student.model.norm.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match="the student gives row 0 no finite probability"):
        ask_about_rows({"student": reader(student)}, reader(TEACHER), TASK, len(ROWS))


def test_a_divergence_of_no_token_is_none_and_large_perplexities_are_whole() -> None:
    teacher = np.tile([4.0, 4.0, 4.0, 0.0, 4.0], (len(ROWS), 1))
    student = np.tile([4.0, 40.0, 0.0, 0.0, 0.0], (len(ROWS), 1))
    facts = evaluate_language(TASK, {"teacher": [teacher], "student": [student]}, {}, ROWS, ReportSpec(bootstrap=100))
    assert facts.kl_to_teacher is None
    assert (facts.examples[0].teacher, facts.examples[0].student) == ("perplexity 2.7", "perplexity 22,026")
    student[0, COLUMN.compared] = 4.0
    some = evaluate_language(TASK, {"teacher": [teacher], "student": [student]}, {}, ROWS, ReportSpec(bootstrap=100))
    assert some.kl_to_teacher == 0.0
