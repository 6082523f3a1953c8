"""What models write: greedy by the whole sequence, compared as JSON or text, counted member by member."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.evaluation.evaluate import EvaluationFacts
from attar.evaluation.exact_match import evaluate_written, score_written, watched_match
from attar.evaluation.generate import complete
from attar.evaluation.written import right_answers, same_answer, write_answers, written_facts
from attar.facts import Interval, QualityFacts
from attar.recipe.outcome import ReportSpec
from attar.recipe.task import CausalLMSpec
from attar.tasks.causal_lm import CausalLM
from tiny_language import TEXTS, tiny_bpe, tiny_llama

TOKENIZER = tiny_bpe()
RECORD = [("text", "U200"), ("tokens", "i8"), ("ended", "?")]
Answer = tuple[str, dict[str, str]]
SLOTS = st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12"))
THREE = st.lists(st.tuples(st.sampled_from("ab"), SLOTS), min_size=3, max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


def written(*cells: tuple[str, int, bool]) -> np.ndarray:
    return np.array(list(cells), dtype=RECORD)


def alone(model: torch.nn.Module, ids: list[int], longest: int) -> list[int]:
    """The likeliest token each time, by the whole sequence without padding and cache."""
    made = list(ids)
    while len(made) - len(ids) < longest and (len(made) == len(ids) or made[-1] != TOKENIZER.eos_token_id):
        with torch.no_grad():
            made.append(int(model(torch.tensor([made])).logits[0, -1].argmax()))
    return made[len(ids) :]


def test_a_batch_writes_what_each_prompt_gets_alone() -> None:
    model = tiny_llama(TOKENIZER, seed=1)
    prompts = [TOKENIZER(text)["input_ids"][: 2 + at % 4] for at, text in enumerate(TEXTS[:20])]
    found = complete(model, TOKENIZER, prompts, longest=9)
    for one, prompt in zip(found, prompts, strict=True):
        tokens = alone(model, prompt, 9)
        assert one.text == TOKENIZER.decode(tokens, skip_special_tokens=True)
        assert one.tokens == len(tokens)
        assert one.ended == (tokens[-1] == TOKENIZER.eos_token_id)


def always(token: int) -> torch.nn.Module:
    """A model that says one token for ever, whatever it reads."""
    model = tiny_llama(TOKENIZER)
    sure = torch.nn.functional.one_hot(torch.tensor(token), len(TOKENIZER)).float()
    model.lm_head.register_forward_hook(lambda *told: told[2] * 0 + sure)
    return model


def test_an_answer_ends_at_an_end_token_or_is_cut() -> None:
    end = int(TOKENIZER.eos_token_id)
    assert complete(always(end), TOKENIZER, [[5, 6]], longest=7) == [("", 1, True)]
    model = always(9)
    assert complete(model, TOKENIZER, [[5, 6]], longest=7) == [(TOKENIZER.decode([9] * 7), 7, False)]
    model.generation_config.eos_token_id = [end, 9]
    assert complete(model.train(), TOKENIZER, [[5, 6]], longest=7) == [(TOKENIZER.decode([9]), 1, True)]
    assert model.training


@pytest.mark.parametrize(
    ("truth", "given_", "same"),
    [
        ('{"a":1,"b":[2]}', ' { "b" : [2.0], "a" : 1 }', True),
        ('{"a":1}', '{"a":true}', False),
        ('{"a":1}', '{"a":"1"}', False),
        ('{"a":1}', '{"a":2,"a":1}', False),
        ('{"a":1}', '{"a":1}}', False),
        ('{"a":1}', '{"a":1', False),
        ("[]", "{}", False),
        ("[1,2]", "[2,1]", False),
        ("{}", "[" * 5000, False),
        ('{"a":"x y"}', '{"a":"x  y"}', False),
        ("yes", " yes\n", True),
        ("yes no", "yes  no", False),
        ("1", "1.0", False),
        ("null", "", False),
    ],
)
def test_answers_are_the_same(truth: str, given_: str, same: bool) -> None:
    assert same_answer(truth, given_) is same


@given(VALUES, VALUES)
def test_json_is_compared_by_value(one: Any, other: Any) -> None:
    for value in ({"a": one}, [one]):
        assert same_answer(json.dumps(value), json.dumps(value, indent=1, sort_keys=True))
    told = json.dumps([one], sort_keys=True) == json.dumps([other], sort_keys=True)
    assert same_answer(json.dumps([one]), json.dumps([other])) is told


def test_an_answer_that_was_cut_is_wrong() -> None:
    rows = Dataset.from_dict({"text": ["yes", "yes", "no"]})
    said = written(("yes ", 2, True), ("yes", 9, False), ("yes", 2, True))
    assert right_answers(rows, said).tolist() == [True, False, False]


@settings(max_examples=30)
@given(THREE, THREE)
def test_f1_of_members_counts_pairs(truth: list[Answer], said: list[Answer]) -> None:
    rows = Dataset.from_dict({"text": [json.dumps({"intent": i, "slots": s}) for i, s in truth]})
    table = written(*((json.dumps({"intent": i, "slots": s}), 5, True) for i, s in said))
    found = written_facts(rows, [table], 9).f1
    assert found["intent"] == pytest.approx(
        np.mean([one[0] == other[0] for one, other in zip(truth, said, strict=True)])
    )
    right = sum(len(one.items() & other.items()) for (_, one), (_, other) in zip(truth, said, strict=True))
    told, asked = sum(len(one) for _, one in said), sum(len(one) for _, one in truth)
    if asked:
        assert found["slots"] == pytest.approx(2 * right / (told + asked))
    else:
        assert "slots" not in found


def test_lengths_cuts_and_valid_json_are_means_over_seeds() -> None:
    rows = Dataset.from_dict({"text": ['{"a":1}', '{"a":2}']})
    seeds = [written(('{"a":1}', 4, True), ('{"a":2', 8, False)), written(("no", 2, True), ('{"a":2}', 4, True))]
    found = written_facts(rows, seeds, 8)
    assert (found.mean_tokens, found.cut, found.valid_json, found.longest) == (4.5, 0.25, 0.5, 8)
    assert found.f1 == {"a": pytest.approx(2 * 2 / (4 + 2))}
    plain = written_facts(Dataset.from_dict({"text": ["yes", '{"a":2}']}), seeds, 8)
    assert (plain.valid_json, plain.f1) == (None, {})


def test_the_evaluation_rests_on_right_answers() -> None:
    task = CausalLM(CausalLMSpec(kind="causal_lm", prompt="p", metric="exact_match"))
    rows = Dataset.from_dict({"prompt": [*"pqrs"], "text": [*"abcd"], "slice": [*"uuvv"]})
    said = {
        "teacher": [written(("a", 2, True), ("b", 2, True), ("c", 2, True), ("x", 2, True))],
        "student": [written(("a", 2, True), ("b", 2, True), ("x", 2, True), ("d", 9, False))],
        "control": [written(("a", 2, True), ("x", 2, True), ("x", 2, True), ("x", 2, True))],
    }
    one = Interval(value=3.0, lo=2.0, hi=4.0, n=4)
    by_token = EvaluationFacts(
        quality=QualityFacts(
            metric="perplexity", n=4, teacher=3.0, student=3.0, control=3.0, intervals={"teacher": one}
        ),
        retention=None, kd_gain=None, agreement=one, calibration=None, notes=["told"],
    )  # fmt: skip
    found = evaluate_written(task, by_token, said, said, rows, rows, ReportSpec(bootstrap=100))
    assert (found.quality.metric, found.quality.n) == ("exact_match", 4)
    assert (found.quality.teacher, found.quality.student, found.quality.control) == (0.75, 0.5, 0.25)
    assert found.retention is not None
    assert found.retention.value == pytest.approx(2 / 3)
    assert found.kd_gain is not None
    assert found.kd_gain.value == pytest.approx(0.25)
    assert found.mcnemar_p == 1.0
    assert found.perplexity == {"teacher": 3.0}
    assert [(e.text, e.truth, e.teacher, e.student) for e in found.examples] == [
        ("r", "c", "c", "x"),
        ("s", "d", "x", "d"),
    ]
    assert [(s.name, s.teacher, s.student, s.control) for s in found.slices] == [
        ("u", 1.0, 1.0, 0.5),
        ("v", 0.5, 0.0, 0.0),
    ]
    assert found.notes == ["The student did not end 25.0% of its answers within 128 tokens.", "told"]
    score = score_written(rows, said["student"][0], said["teacher"][0], ReportSpec(bootstrap=100))
    assert (score.quality, score.retention and score.retention.value) == (0.5, pytest.approx(2 / 3))
    nobody = {**said, "teacher": [written(*[("x", 2, True)] * 4)]}
    none = evaluate_written(task, by_token, nobody, said, rows, rows, ReportSpec(bootstrap=100))
    assert none.retention is None
    assert "Retention is not defined" in none.notes[1]


def test_training_watches_some_rows() -> None:
    task = CausalLM(CausalLMSpec.model_validate({
        "kind": "causal_lm", "prompt": "p", "metric": "exact_match", "generation": {"max_tokens": 4, "watched_rows": 3},
    }))  # fmt: skip
    model = tiny_llama(TOKENIZER)
    rows = Dataset.from_dict({"prompt": TEXTS[:10], "text": TEXTS[10:20]})
    said = write_answers(model, TOKENIZER, task, rows)
    right = Dataset.from_dict(
        {"prompt": TEXTS[:10], "text": [str(text) if at in (0, 9) else "?" for at, text in enumerate(said["text"])]}
    )
    shares = [watched_match(model, TOKENIZER, task, one) for one in (right, right.select([0]))]
    assert shares == [np.mean([*said["ended"][[0, 9]].tolist(), False]), float(said["ended"][0])]
