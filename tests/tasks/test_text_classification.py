"""The text task: encoding and batches equal the tokenizer's own, models load safely, folders serve a pipeline."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2ForSequenceClassification, RobertaConfig, RobertaModel, pipeline

from attar.errors import PlanError, TeacherError
from tiny import save, tiny_bert, tiny_tokenizer

LONG = " ".join(f"word{i % 13}" for i in range(100_000))


def same(batch, reference):
    assert set(batch) == set(reference)
    for name, value in batch.items():
        assert value.dtype == torch.int64
        torch.testing.assert_close(value, reference[name])


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_what_the_tokenizer_pads(make, rows, side):
    task, tokenizer = make(max_length=9), tiny_tokenizer(rows["text"])
    tokenizer.padding_side = side
    encoded = task.encode(rows, tokenizer)
    for chosen in ([0, 4, 2], np.array([11]), range(12), [3, 3]):
        texts = [rows[int(i)]["text"] for i in chosen]
        reference = tokenizer(texts, truncation=True, max_length=9, padding=True, return_tensors="pt")
        same(task.batch(encoded, chosen, tokenizer), reference)
    assert len(encoded) == 12
    assert encoded.lengths.tolist() == [min(len(t.split()) + 2, 9) for t in rows["text"]]
    assert encoded.truncated == sum(len(t.split()) + 2 > 9 for t in rows["text"])
    assert encoded.labels.tolist() == [0, 1] * 6
    assert all(ids.dtype == np.int64 for ids in encoded.inputs["input_ids"])


def test_a_batch_of_pairs(make, rows):
    task, tokenizer = make(max_length=12, text_pair="other"), tiny_tokenizer(rows["text"])
    pairs = Dataset.from_dict({"text": rows["text"][:], "text_pair": rows["text"][::-1], "label": [0] * 12})
    encoded = task.encode(pairs, tokenizer)
    reference = tokenizer(
        pairs["text"][:], pairs["text_pair"][:], truncation=True, max_length=12, padding=True, return_tensors="pt"
    )
    assert reference["token_type_ids"].any()
    same(task.batch(encoded, range(12), tokenizer), reference)


def test_a_batch_feeds_the_model_and_padding_changes_nothing(make, rows):
    task, tokenizer = make(), tiny_tokenizer(rows["text"])
    model = tiny_bert(tokenizer, task.labels)
    encoded = task.encode(rows, tokenizer)
    with torch.no_grad():
        together = model(**task.batch(encoded, [0, 4], tokenizer)).logits
        alone = model(**task.batch(encoded, [0], tokenizer)).logits
    torch.testing.assert_close(together[:1], alone)


def test_the_tokenizer_is_handed_back_as_it_was(make, rows, tmp_path):
    task, tokenizer = make(max_length=5), tiny_tokenizer(rows["text"])
    before = tokenizer.backend_tokenizer.to_str()
    task.encode(rows, tokenizer)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_labels_of_every_problem(make, rows):
    tokenizer = tiny_tokenizer(rows["text"])
    texts = rows["text"][:2]

    def labels(task, **columns):
        return task.encode(Dataset.from_dict({"text": texts, **columns}), tokenizer).labels

    single, multi, number = make(), make(("a", "b"), problem="multi_label"), make(("score",), problem="regression")
    assert labels(single).tolist() == [-100, -100]
    assert labels(single, label=[1, -100]).dtype == np.int64
    assert labels(multi, label=[[1.0, 0.0], [0.0, 0.0]]).tolist() == [[1, 0], [0, 0]]
    assert np.isnan(labels(multi)).sum() == 4
    assert np.isnan(labels(multi, label=[[float("nan")], [float("nan")]])).sum() == 4
    assert labels(number, label=[0.5, 2.0]).dtype == np.float32
    assert np.isnan(labels(number)).all()
    assert (single.metric, multi.metric, number.metric) == ("accuracy", "micro_f1", "spearman")
    assert make(metric="macro_f1").metric == "macro_f1"
    assert single.pipeline == "text-classification"


def test_no_rows(make, rows):
    task, tokenizer = make(), tiny_tokenizer(rows["text"])
    encoded = task.encode(rows.select([]), tokenizer)
    assert len(encoded) == 0
    assert task.content_keys(rows.select([])) == []


def test_a_row_of_a_hundred_thousand_words_is_cut_quickly_and_exactly(make, rows):
    task, tokenizer = make(max_length=32), tiny_tokenizer([LONG[:500]])
    data = Dataset.from_dict({"text": ["word1", LONG, "x" * 300_000 + " word1", " " * 100_000 + "word2"]})
    start = time.process_time()
    encoded = task.encode(data, tokenizer)
    assert time.process_time() - start < 5
    assert encoded.truncated == 1
    reference = tokenizer(data["text"][:], truncation=True, max_length=32)["input_ids"]
    assert [ids.tolist() for ids in encoded.inputs["input_ids"]] == reference


def test_long_pairs_are_cut_as_the_tokenizer_cuts_them(make):
    task, tokenizer = make(max_length=32, text_pair="other"), tiny_tokenizer([LONG[:500]])
    long = LONG[:6_000]
    data = Dataset.from_dict({"text": [long, "word1 word2", long], "text_pair": ["word1", long, long]})
    encoded = task.encode(data, tokenizer)
    reference = tokenizer(data["text"][:], data["text_pair"][:], truncation=True, max_length=32)["input_ids"]
    assert [ids.tolist() for ids in encoded.inputs["input_ids"]] == reference
    assert encoded.truncated == 3


def test_a_limit_without_room(make, rows):
    with pytest.raises(PlanError, match="Set at least 3"):
        make(max_length=2).encode(rows, tiny_tokenizer(rows["text"]))


def test_content_keys_tell_inputs_apart_and_not_labels(make, rows):
    task = make()
    keys = task.content_keys(rows)
    other = Dataset.from_dict({"text": rows["text"][:], "label": [1] * 12})
    assert keys == task.content_keys(other)
    assert len(set(keys)) == len(set(rows["text"]))
    pair = make(text_pair="b")
    one, two = (Dataset.from_dict({"text": [a], "text_pair": [b]}) for a, b in (("ab", "c"), ("a", "bc")))
    assert pair.content_keys(one) != pair.content_keys(two)


def test_an_example_is_short_enough_for_people(make):
    task = make(text_pair="b")
    assert task.example({"text": "one", "text_pair": "two", "label": 0}) == {"text": "one\ntwo"}
    assert len(make().example({"text": LONG})["text"]) == 1001


def test_a_model_is_built_for_the_labels_and_its_folder_serves_a_pipeline(make, rows, tmp_path):
    labels = ("bad", "good", "so so")
    task, tokenizer = make(labels), tiny_tokenizer(rows["text"])
    config = {
        "model_type": "bert",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 40,
    }
    model = task.build_model(config)
    assert not model.training
    assert model.config.id2label == dict(enumerate(labels))
    assert model.config.problem_type == "single_label_classification"
    save(model, tokenizer, tmp_path / "student")
    serve = pipeline(task.pipeline, str(tmp_path / "student"), top_k=None)
    answer = serve([rows[3]["text"]])
    loaded, processor = task.load_model(tmp_path / "student"), task.load_processor(tmp_path / "student")
    assert processor.model_max_length == 40
    with torch.no_grad():
        batch = task.batch(task.encode(rows, processor), [3], processor)
        expected = dict(zip(labels, loaded(**batch).logits.softmax(-1)[0].tolist(), strict=True))
    assert {a["label"]: pytest.approx(a["score"], abs=1e-6) for a in answer[0]} == expected


@pytest.mark.parametrize(
    ("problem", "kind"), [("multi_label", "multi_label_classification"), ("regression", "regression")]
)
def test_the_kind_of_target_stands_in_the_configuration(make, problem, kind):
    model = make(("x",), problem=problem).build_model(
        {"model_type": "bert", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    )
    assert model.config.problem_type == kind
    assert model.config.num_labels == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "brt"}, 'Did you mean "bert"'),
        ({}, "None is not a model type"),
        ({"model_type": "bert", "hiden_size": 8}, '"hiden_size" Did you mean "hidden_size"'),
        ({"model_type": "bert", "hidden_size": "wide"}, "bert refuses these fields"),
        ({"model_type": "bert", "hidden_size": 10, "num_attention_heads": 3}, "no bert model can be built"),
        ({"model_type": "resnet"}, "no resnet model can be built"),
    ],
)
def test_a_configuration_that_cannot_work(make, config, message):
    with pytest.raises(PlanError, match=message):
        make().build_model(config)


def test_an_encoder_without_head_is_refused_or_gets_a_new_one(make, rows, tmp_path):
    tokenizer = tiny_tokenizer(rows["text"])
    body = tiny_bert(tokenizer, ("a", "b")).bert
    save(body, tokenizer, tmp_path)
    task = make(("x", "y", "z"))
    with pytest.raises(TeacherError, match=r"classifier.*no head for this task. Use fit: probe"):
        task.load_model(tmp_path)
    model = task.load_model(tmp_path, new_head=True)
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"}
    torch.testing.assert_close(model.bert.embeddings.word_embeddings.weight, body.embeddings.word_embeddings.weight)


def test_a_new_head_replaces_another_one(make, rows, tmp_path):
    tokenizer = tiny_tokenizer(rows["text"])
    save(tiny_bert(tokenizer, ("a", "b")), tokenizer, tmp_path)
    assert make(("x", "y", "z")).load_model(tmp_path, new_head=True).classifier.out_features == 3
    assert make(("x", "y", "z")).load_model(tmp_path).config.id2label == {0: "a", 1: "b"}


class Hostile:
    def __reduce__(self):
        return (open, ("hacked.txt", "w"))


def test_a_hostile_pickle_is_not_run(make, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny_tokenizer(rows["text"])
    folder = save(tiny_bert(tokenizer, ("a", "b")), tokenizer, tmp_path / "teacher")
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as stream:
        pickle.dump({"classifier.weight": Hostile()}, stream)
    with pytest.raises(TeacherError, match=r"teacher/pytorch_model.bin: the pickle cannot be read.*safetensors"):
        make().load_model(folder)
    assert not (tmp_path / "hacked.txt").exists()


def test_a_harmless_pickle_is_read(make, rows, tmp_path):
    tokenizer = tiny_tokenizer(rows["text"])
    model = tiny_bert(tokenizer, ("a", "b"))
    folder = save(model, tokenizer, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    torch.testing.assert_close(make().load_model(folder).classifier.weight, model.classifier.weight)


def test_broken_and_absent_models(make, rows, tmp_path):
    tokenizer = tiny_tokenizer(rows["text"])
    folder = save(tiny_bert(tokenizer, ("a", "b")), tokenizer, tmp_path)
    (folder / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(TeacherError, match=r"cannot be loaded.*Check config.json"):
        make().load_model(folder)
    with pytest.raises(TeacherError, match="ATTAR_MIRROR"):
        make().load_model("SomeOrg/no-such-model")
    with pytest.raises(TeacherError, match="no tokenizer can be loaded"):
        make().load_processor("SomeOrg/no-such-model")


def test_positions_behind_the_padding_id_are_not_counted(make, rows, tmp_path):
    tokenizer = tiny_tokenizer(rows["text"], max_length=512)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        max_position_embeddings=20,
        pad_token_id=1,
    )
    save(RobertaModel(config), tokenizer, tmp_path)
    assert make().load_processor(tmp_path).model_max_length == 18


def test_a_model_without_padding_token_pads_with_its_end(make, rows, tmp_path):
    tokenizer = tiny_tokenizer(rows["text"])
    tokenizer.eos_token = "[SEP]"
    tokenizer.pad_token = None
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=4, n_layer=1, n_head=1, n_positions=32, eos_token_id=3, bos_token_id=2
    )
    save(GPT2ForSequenceClassification(config), tokenizer, tmp_path)
    task = make()
    processor, model = task.load_processor(tmp_path), task.load_model(tmp_path)
    assert processor.pad_token == "[SEP]"
    assert processor.model_max_length == 32
    encoded = task.encode(rows, processor)
    with torch.no_grad():
        assert model(**task.batch(encoded, [0, 1], processor)).logits.shape == (2, 2)
