"""Students with another tokenizer: where both sides' tokens meet, and losses there against loops over dense logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attar.errors import DataError, PlanError, TrainingError
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import AlignedSpec, ForwardKLSpec, HardLabelsSpec, ProjectedKLSpec, SpanKLSpec, ULDSpec
from attar.recipe.task import CausalLMSpec
from attar.recipe.training import TrainingSpec
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences
from attar.training.rows import Batch, LiveTeacher, TrainingRows
from attar.training.token_bytes import TokenBytes, token_maps
from attar.training.train import make_trainer, train
from attar.training.two_tokenizers import Paired, pair_rows
from objectives.oracles import sparse as oracle
from tiny_language import END, TEXTS, tiny_bpe, tiny_llama

TEACHER = tiny_bpe()
STUDENT = tiny_bpe([f"{text[4:9]} apple owls {text[::-1]}" for text in TEXTS], size=290)
PROMPTED = CausalLM(CausalLMSpec(kind="causal_lm", prompt="prompt", max_length=60))
ROWS = Dataset.from_dict({"prompt": [text[:9] for text in TEXTS[:24]], "text": [text[9:] for text in TEXTS[:24]]})
SETTINGS: dict[str, Any] = {"batch_size": 8, "learning_rate": 0.01, "max_steps": 12, "device": "cpu", "evaluations": 1}


def pieces(tokenizer: Any, ids: np.ndarray) -> list[str]:
    """What each token spells, by decoding it alone: the texts here are ASCII."""
    return [tokenizer.decode([int(i)], skip_special_tokens=True) for i in ids]


def test_spans_are_the_same_text_on_both_sides_and_as_short_as_can_be() -> None:
    assert STUDENT.get_vocab().keys() - TEACHER.get_vocab().keys()
    pair = pair_rows(PROMPTED, ROWS, STUDENT, TEACHER)
    longer = 0
    for row in range(len(pair.student)):
        sides = [(pair.student, pair.student_spans, STUDENT), (pair.teacher, pair.teacher_spans, TEACHER)]
        spelled = [
            ["".join(pieces(tok, made.inputs["input_ids"][row][spans[row] == n])) for n in range(max(spans[row]) + 1)]
            for made, spans, tok in sides
        ]
        assert spelled[0] == spelled[1]
        assert "".join(spelled[0]) == ROWS[row]["text"]
        assert spelled[0][-1] == "", "the end marks make a span of their own"
        for made, spans, tok in sides:
            last = made.inputs["input_ids"][row][spans[row] == len(spelled[0]) - 1]
            assert last.tolist() == [tok.eos_token_id]
            assert ((spans[row] >= 0) == made.learned[row]).all()
        ends = [
            set(np.cumsum([len(p) for p in pieces(tok, made.inputs["input_ids"][row][made.learned[row]])]))
            for made, _, tok in sides
        ]
        assert len(spelled[0]) == len(ends[0] & ends[1]) + 1
        longer += any((spans[row] == n).sum() > 1 for _, spans, _ in sides for n in range(len(spelled[0])))
    assert longer


@settings(max_examples=30, derandomize=True)
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6), st.integers(12, 40), st.integers(12, 40))
def test_a_long_text_is_cut_where_both_have_a_boundary_and_learned_once(
    texts: list[str], ours: int, theirs: int
) -> None:
    student, teacher = tiny_bpe(["owl sees"], size=280), tiny_bpe()
    student.model_max_length, teacher.model_max_length = ours, theirs
    task = CausalLM(CausalLMSpec(kind="causal_lm", max_length=64))
    text = " ".join(texts)
    pair = pair_rows(task, Dataset.from_dict({"text": [text]}), student, teacher)
    for made, tokenizer, limit in ((pair.student, student, ours), (pair.teacher, teacher, theirs)):
        assert made.lengths.max() <= limit
        whole = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        told = [int(i) for row in range(len(made)) for i in made.inputs["input_ids"][row][made.learned[row]]]
        assert told == whole[1:]
        assert set(made.owners) == {0}
    for row in range(len(pair.student)):
        assert max(pair.student_spans[row]) == max(pair.teacher_spans[row])
        texts_of = [
            "".join(pieces(tok, made.inputs["input_ids"][row]))
            for made, tok in ((pair.student, student), (pair.teacher, teacher))
        ]
        assert texts_of[0] == texts_of[1]


def test_each_side_reads_a_chat_by_its_own_template() -> None:
    student, teacher = tiny_bpe(size=290, chat=True), tiny_bpe(chat=True)
    student.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}"
        + (f"{END}{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}[assistant]{{% endif %}}")
    )
    pair = pair_rows(PROMPTED, ROWS, student, teacher)
    for row in range(len(pair.student)):
        spans, made = pair.student_spans[row], pair.student
        assert "".join(pieces(student, made.inputs["input_ids"][row][spans >= 0])) == ROWS[row]["text"]
        assert (spans[made.learned[row]] >= 0).all(), "the answer and its end mark"
        left = pair.teacher.inputs["input_ids"][row][pair.teacher.learned[row] & (pair.teacher_spans[row] < 0)]
        assert teacher.decode(left) == "\n", "what only the teacher's template writes behind its end mark"


def test_texts_that_a_tokenizer_changes_are_refused() -> None:
    from tokenizers import normalizers

    lower = tiny_bpe()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    rows = Dataset.from_dict({"prompt": ["who?"], "text": [" the Cat"]})
    with pytest.raises(DataError, match=r"row 0: the student's tokens spell b'cat' where the teacher's spell b'Cat'"):
        pair_rows(PROMPTED, rows, lower, TEACHER)
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    other = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[UNK]")
    with pytest.raises(PlanError, match="neither byte-level BPE nor SentencePiece"):
        TokenBytes.of(other, "student")


def test_a_sentencepiece_s_space_is_a_space() -> None:
    vocabulary = {"<unk>": 0, "</s>": 1, "▁the": 2, "▁cat": 3, "s": 4, "<0xC3>": 5, "<0xA9>": 6, "▁": 7}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made = TokenBytes.of(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"), "x")
    assert made.spelled == [b"", b"", b" the", b" cat", b"s", b"\xc3", b"\xa9", b" "]
    assert made.special == {0: "<unk>", 1: "eos"}


# Losses.


def models_of() -> tuple[Any, Any]:
    return tiny_llama(STUDENT, hidden=16, layers=2, seed=1), tiny_llama(TEACHER)


def rows_of(pair: Paired, teacher: Any, terms: Terms) -> TrainingRows:
    spans = (pair.student_spans, pair.teacher_spans)
    live = LiveTeacher(teacher, pair.teacher, TEACHER, terms.wanted_teacher, alike=terms.one_by_one, spans=spans)
    return TrainingRows(pair.student, STUDENT, live=live)


def terms_of(*specs: Any) -> Terms:
    return Terms(list(specs), problem="single_label", tokens=token_maps(STUDENT, TEACHER), seed=0)


def dense(model: Any, made: Sequences, row: int) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(made.inputs["input_ids"][row])[None]).logits[0].double().numpy()


def by_hand(kind: str, model: Any, teacher: Any, pair: Paired, rows: list[int]) -> float:
    """The mean over rows, one sequence and span after another."""
    pairs = sorted((STUDENT.get_vocab()[t], n) for t, n in TEACHER.get_vocab().items() if t in STUDENT.get_vocab())
    projection = token_maps(STUDENT, TEACHER).projection
    matrix = np.zeros((len(STUDENT), len(TEACHER)))
    matrix[projection.student_ids, projection.teacher_ids] = projection.weights
    np.testing.assert_allclose(matrix.sum(1), 1.0, rtol=1e-6)
    found: list[float] = []
    for row in rows:
        ours, theirs = dense(model, pair.student, row), dense(teacher, pair.teacher, row)
        ids = [made.inputs["input_ids"][row] for made in (pair.student, pair.teacher)]
        for number in range(max(pair.student_spans[row]) + 1):
            at, there = (np.flatnonzero(spans[row] == number) for spans in (pair.student_spans, pair.teacher_spans))
            q, p = ours[at[0] - 1][None], theirs[there[0] - 1][None]
            if kind == "uld":
                found.append(2.0 * oracle.uld(q / 2.0, p / 2.0)[0])
            elif kind == "aligned":
                found.append(oracle.aligned(q, p, pairs)[0])
            elif kind == "projected_kl":
                found.append(oracle.projected_kl(q, p, matrix)[0])
            else:
                logs = [
                    [log_softmax(logits[place - 1])[ids[side][place]] for place in places]
                    for side, (logits, places) in enumerate(((ours, at), (theirs, there)))
                ]
                found += [oracle.span_kl(np.exp(logs[0]).tolist(), float(np.exp(np.sum(logs[1]))))] * len(at)
    return float(np.mean(found))


SPECS = [
    ULDSpec(kind="uld", temperature=2.0),
    AlignedSpec(kind="aligned"),
    ProjectedKLSpec(kind="projected_kl"),
    SpanKLSpec(kind="span_kl"),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_the_loss_is_that_of_a_loop_over_dense_logits(tmp_path: Path, spec: Any) -> None:
    (model, teacher), terms = models_of(), terms_of(spec, HardLabelsSpec(kind="hard_labels", weight=0.5))
    model, teacher = model.double(), teacher.double()
    pair = pair_rows(PROMPTED, ROWS, STUDENT, TEACHER)
    trainer = make_trainer(
        model, terms, PROMPTED, rows_of(pair, teacher, terms), TrainingSpec(**SETTINGS), tmp_path, key="k"
    )
    batch = trainer.micro_batch(Batch(rows=np.array([5, 2, 11]), epoch=0, number=0))
    counts = trainer.distil.kept(batch)
    assert counts["hard_labels"] == len(batch["labels"])
    assert counts[spec.kind] <= len(batch["labels"])
    loss, values = trainer.distil(**batch, counts=counts)
    expected = by_hand(spec.kind, model, teacher, pair, [5, 2, 11])
    assert float(values[spec.kind]) == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_the_loss_falls(tmp_path: Path, spec: Any) -> None:
    (model, teacher), terms = models_of(), terms_of(spec)
    pair = pair_rows(PROMPTED, ROWS, STUDENT, TEACHER)
    facts = train(model, terms, PROMPTED, rows_of(pair, teacher, terms), TrainingSpec(**SETTINGS), tmp_path, key="k")
    curve = [point["loss"] for point in facts.curve if "loss" in point]
    assert np.mean(curve[-3:]) < 0.9 * np.mean(curve[:3])


def test_micro_batches_make_the_same_step_as_one_batch(tmp_path: Path) -> None:
    """Rows have other numbers of spans, so a mean of means would differ."""
    pair = pair_rows(PROMPTED, ROWS, STUDENT, TEACHER)
    after = []
    for name, changes in (("whole", {}), ("cut", {"batch_size": 2, "accumulate": 4})):
        (model, teacher), terms = models_of(), terms_of(SPECS[1], SPECS[3])
        spec = TrainingSpec(**SETTINGS | {"max_steps": 3} | changes)
        train(model, terms, PROMPTED, rows_of(pair, teacher, terms), spec, tmp_path / name, key="k")
        after.append(model.state_dict())
    for name, value in after[0].items():
        torch.testing.assert_close(after[1][name], value, msg=name, rtol=1e-3, atol=1e-5)


def test_without_two_sides_that_meet_nothing_is_compared() -> None:
    terms = terms_of(SPECS[0])
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(TrainingError, match="uld: compares rows where two tokenizers meet"):
        terms.kept(labels, 2, None)
    assert not terms.one_by_one
    assert terms_of(SPECS[0], ForwardKLSpec(kind="forward_kl")).one_by_one
