"""Students cut from a teacher, built from a configuration, or pretrained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import pipeline

from attar.errors import PlanError
from attar.recipe.student import FromConfigSpec, FromTeacherSpec, PretrainedSpec, VocabularySpec
from attar.recipe.task import ImageClassificationSpec, TextClassificationSpec
from attar.students.build import Student, body_of, build_student, save_student
from attar.students.cut import even_layers
from attar.tasks import make_task
from tiny import save, tiny_bert, tiny_image_model, tiny_image_processor, tiny_tokenizer

LABELS = ("alpha", "beta", "gamma")
TEXTS = ["the card was lost", "my transfer is late", "a fee was charged twice", "unseen words stay here"]
TASK = make_task(TextClassificationSpec(kind="text_classification", max_length=32), LABELS)
TOKENIZER = tiny_tokenizer(TEXTS)
TEACHER = tiny_bert(TOKENIZER, LABELS, hidden=32, layers=4)
KEEP_ALL = VocabularySpec(keep="all")


def build(spec: FromTeacherSpec, seed: int = 0, init: str = "recipe", texts: list[str] = TEXTS) -> Student:
    return build_student(spec, TASK, teacher=TEACHER, processor=TOKENIZER, texts=texts, seed=seed, init=init)


def test_nothing_cut_gives_the_teachers_body() -> None:
    student = build(FromTeacherSpec(kind="from_teacher", layers=4, vocabulary=KEEP_ALL))
    inputs = TOKENIZER(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        ours = body_of(student.model.eval())(**inputs).last_hidden_state
        theirs = body_of(TEACHER)(**inputs).last_hidden_state
    torch.testing.assert_close(ours, theirs)
    assert student.initial["embedding_variance_kept"] == 1.0


def test_chosen_layers_are_copied() -> None:
    student = build(FromTeacherSpec(kind="from_teacher", layers=(1, 3), vocabulary=KEEP_ALL))
    ours, theirs = body_of(student.model).state_dict(), body_of(TEACHER).state_dict()
    for new, old in enumerate((1, 3)):
        name = "encoder.layer.{}.output.dense.weight"
        assert torch.equal(ours[name.format(new)], theirs[name.format(old)])


def test_a_reduced_vocabulary_keeps_the_rows_of_its_tokens() -> None:
    student = build(FromTeacherSpec(kind="from_teacher", layers=1), texts=TEXTS[:2])
    ours = body_of(student.model).get_input_embeddings().weight
    theirs = body_of(TEACHER).get_input_embeddings().weight
    assert len(ours) == len(student.processor) < len(theirs)
    card = student.processor.convert_tokens_to_ids("card")
    assert torch.equal(ours[card], theirs[TOKENIZER.convert_tokens_to_ids("card")])
    assert student.model.config.pad_token_id == student.processor.pad_token_id


def test_a_narrow_student_keeps_most_of_the_embeddings_geometry() -> None:
    spec = FromTeacherSpec(kind="from_teacher", layers=2, hidden_size=16, vocabulary=KEEP_ALL)
    student = build(spec)
    full = body_of(TEACHER).get_input_embeddings().weight.detach()
    small = body_of(student.model).get_input_embeddings().weight.detach()
    assert small.shape == (len(full), 16)
    kept = student.initial["embedding_variance_kept"]
    centred = full - full.mean(0)
    assert 0.4 < kept < 1.0
    assert float((small**2).sum() / (centred**2).sum()) == pytest.approx(kept, abs=0.05)
    student.model(**TOKENIZER(TEXTS, padding=True, return_tensors="pt")).logits.sum().backward()


def test_the_seed_alone_decides() -> None:
    spec = FromTeacherSpec(kind="from_teacher", layers=2, hidden_size=16, init="embeddings")
    torch.manual_seed(5)
    first = build(spec, seed=3).model.state_dict()
    torch.manual_seed(6)
    state = torch.get_rng_state()
    again, other = build(spec, seed=3).model.state_dict(), build(spec, seed=4).model.state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    assert torch.equal(first["bert.embeddings.word_embeddings.weight"], other["bert.embeddings.word_embeddings.weight"])


def test_random_keeps_the_shape_and_copies_nothing() -> None:
    spec = FromTeacherSpec(kind="from_teacher", layers=2)
    copied, random = build(spec), build(spec, init="random")
    name = "bert.encoder.layer.0.output.dense.weight"
    ours, theirs = random.model.state_dict()[name], copied.model.state_dict()[name]
    assert ours.shape == theirs.shape
    assert not torch.equal(ours, theirs)
    assert random.initial["init"] == "random"


def test_the_saved_student_is_a_normal_transformers_folder(tmp_path: Path) -> None:
    student = build(FromTeacherSpec(kind="from_teacher", layers=1, hidden_size=16, max_positions=40))
    save_student(student.model, student.processor, tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in tmp_path.iterdir()}
    answer = pipeline("text-classification", str(tmp_path))("the card was lost")
    assert answer[0]["label"] in LABELS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 9}, "9 layers cannot be cut from a teacher with 4"),
        ({"layers": (0, 4)}, r"\[4\] are not layers of the teacher. Allowed: 0 to 3"),
        ({"layers": 1, "hidden_size": 64}, "64 is wider than the teacher's 32"),
        ({"layers": 1, "hidden_size": 16, "heads": 3}, "3 heads do not divide hidden_size 16"),
        ({"layers": 1, "hidden_size": 24, "heads": 2}, "no multiple of the teacher's head size 16"),
    ],
)
def test_cuts_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        build(FromTeacherSpec(kind="from_teacher", **changes))


def test_a_teacher_without_transformers_body_is_refused() -> None:
    spec = FromTeacherSpec(kind="from_teacher", layers=1)
    for teacher, message in ((nn.Linear(2, 2), "needs a Transformers teacher, not Linear"), (None, "a store has none")):
        with pytest.raises(PlanError, match=message):
            build_student(spec, TASK, teacher=teacher, processor=TOKENIZER, texts=TEXTS, seed=0)


def test_evenly_spaced_layers_end_with_the_last() -> None:
    assert even_layers(2, 6) == (2, 5)
    assert even_layers(6, 6) == (0, 1, 2, 3, 4, 5)
    assert even_layers(1, 12) == (11,)


def test_a_vit_is_cut_in_depth_and_width() -> None:
    task = make_task(ImageClassificationSpec(kind="image_classification", image_size=8), LABELS)
    teacher = tiny_image_model(LABELS, "vit", hidden=16, layers=3)
    spec = FromTeacherSpec(kind="from_teacher", layers=2, hidden_size=8)
    student = build_student(spec, task, teacher=teacher, processor=tiny_image_processor(), texts=[], seed=0)
    with torch.inference_mode():
        assert student.model(pixel_values=torch.zeros(2, 3, 8, 8)).logits.shape == (2, 3)
    assert student.initial["tensors_copied"] > 10


def test_from_config_takes_its_vocabulary_from_the_data() -> None:
    config = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    spec = FromConfigSpec(kind="from_config", config={**config, "intermediate_size": 16})
    student = build_student(spec, TASK, teacher=None, processor=TOKENIZER, texts=TEXTS[:1], seed=0)
    assert student.model.config.vocab_size == len(student.processor) < len(TOKENIZER)
    assert student.model.config.num_labels == 3


def test_pretrained_can_lose_unused_tokens(tmp_path: Path) -> None:
    folder = save(tiny_bert(TOKENIZER, LABELS), TOKENIZER, tmp_path)
    spec = PretrainedSpec(kind="pretrained", model=str(folder), vocabulary=VocabularySpec(keep="used"))
    student = build_student(spec, TASK, teacher=None, processor=None, texts=TEXTS[:1], seed=0)
    whole = build_student(spec, TASK, teacher=None, processor=None, texts=[], seed=0)
    assert len(student.processor) < len(whole.processor) == len(TOKENIZER)
    with torch.inference_mode():
        ours = student.model(**student.processor(TEXTS[:1], return_tensors="pt")).logits
        theirs = whole.model(**whole.processor(TEXTS[:1], return_tensors="pt")).logits
    torch.testing.assert_close(ours, theirs)
