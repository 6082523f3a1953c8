"""A student cut from a causal language model as a recipe describes it, and what is told of the cut."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from attar.errors import PlanError
from attar.logits import Projection
from attar.objectives.response import forward_kl
from attar.recipe.student import FromTeacherSpec, VocabularySpec
from attar.recipe.task import TextClassificationSpec
from attar.students.build import build_student, save_student
from attar.students.decoder import last_states, layers_replaced, skipping
from attar.students.decoder_student import student_of_decoder
from attar.students.importance import choose_layers, remove_layers
from attar.students.student import Student
from attar.tasks import make_task
from students.decoders import FAMILIES, logits_of, tiny_decoder
from tiny import tiny_bert, tiny_tokenizer

STARTS = ("the card was", "my transfer is", "a fee was charged and", "their account will be")
TEXTS = [f"{start} {end}" for end in ("lost twice", "late again", "paid for the card") for start in STARTS]
KEEP_ALL = VocabularySpec(keep="all")


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE, as these families have it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=["<pad>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator([*TEXTS, "some other words that no text has"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")


TOKENIZER = tokenizer()
BATCHES = [dict(TOKENIZER(TEXTS[i : i + 3], padding=True, return_tensors="pt")) for i in range(0, 12, 3)]
for made in BATCHES:
    made.pop("token_type_ids", None)


def teacher_of(family: str = "llama", **changes: object) -> torch.nn.Module:
    sizes = {"vocab_size": len(TOKENIZER), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    return tiny_decoder(family, **{**sizes, **changes})


def cut(
    teacher: torch.nn.Module, batches: list = BATCHES, seed: int = 0, way: str = "recipe", **spec: object
) -> Student:
    made = FromTeacherSpec(kind="from_teacher", **{"layers": 4, "vocabulary": KEEP_ALL, **spec})
    return student_of_decoder(made, teacher, TOKENIZER, TEXTS, batches, seed, way)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_step_is_told_with_its_cost(family: str, tmp_path: Path) -> None:
    teacher = teacher_of(family, tied=family == "mistral")
    before = deepcopy(teacher.state_dict())
    student = cut(
        teacher, layers=2, layer_importance="greedy_kl", hidden_size=12, heads=2, key_value_heads=1,
        intermediate_size=7, vocabulary=VocabularySpec(),
    )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    facts = json.loads(json.dumps(student.initial))
    scores, removals = remove_layers(teacher, BATCHES[1:], 2)
    assert facts["layers"] == sorted({0, 1, 2, 3} - {removal.layer for removal in removals})
    assert facts["layer_scores"] == pytest.approx(scores, abs=1e-6)
    assert [layer for layer, _ in facts["layers_removed"]] == [removal.layer for removal in removals]
    steps = [name.removeprefix("kl_after_") for name in facts if name.startswith("kl_after_")]
    assert steps == ["layers", "heads", "neurons", "width", "tokens"]
    assert facts["kl"] == f"on {int(BATCHES[0]['attention_mask'].sum())} tokens of rows on which nothing was chosen"
    assert 0 < facts["mass_of_dropped_tokens"] < 1
    assert facts["tokens_kept"] == len(student.processor) < facts["tokens_of_teacher"] == len(TOKENIZER)
    with layers_replaced(teacher, skipping(removal.layer for removal in removals)):
        without = logits_of(teacher, BATCHES[0])
    kept = BATCHES[0]["attention_mask"].bool()
    whole = logits_of(teacher, BATCHES[0])
    assert facts["kl_after_layers"] == pytest.approx(float(forward_kl(without[kept], whole[kept]).mean()), abs=1e-4)
    config = student.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (2, 12, 7)
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)
    save_student(student.model, student.processor, tmp_path)
    again, words = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    inputs = dict(words(TEXTS[:2], padding=True, return_tensors="pt"))
    inputs.pop("token_type_ids", None)
    assert torch.equal(logits_of(again.eval(), inputs), logits_of(student.model, inputs))
    assert words.decode(words("unseen Ωords 🎉")["input_ids"]) == "unseen Ωords 🎉"


def test_after_the_tokens_the_rest_is_compared_among_those_that_stay() -> None:
    teacher = teacher_of()
    student = cut(teacher, layers=(0, 2), vocabulary=VocabularySpec())
    old = [
        TOKENIZER.convert_tokens_to_ids(token)
        for token in student.processor.convert_ids_to_tokens(range(len(student.processor)))
    ]
    mask = BATCHES[0]["attention_mask"].bool()
    whole = logits_of(teacher, BATCHES[0])[mask]
    renumbered = torch.zeros(len(TOKENIZER), dtype=torch.long)
    renumbered[old] = torch.arange(len(old))
    batch = {**BATCHES[0], "input_ids": renumbered[BATCHES[0]["input_ids"]]}
    assert torch.equal(torch.tensor(old)[batch["input_ids"]], BATCHES[0]["input_ids"])
    ours = Projection(last_states(student.model, batch).detach(), student.model.lm_head.weight.detach()).dense()
    assert student.initial["kl_after_tokens"] == pytest.approx(float(forward_kl(ours, whole[:, old]).mean()), abs=1e-4)
    mass = float(whole.softmax(-1)[:, old].sum(-1).mean())
    assert student.initial["mass_of_dropped_tokens"] == pytest.approx(1 - mass, abs=1e-5)
    assert (student.model.config.pad_token_id, student.model.config.eos_token_id) == (0, 1)


def test_nothing_cut_gives_the_teacher() -> None:
    teacher = teacher_of("qwen3")
    student = cut(teacher, layers=4, batches=[])
    assert torch.equal(logits_of(student.model), logits_of(teacher))
    assert all(value.requires_grad for value in student.model.parameters())
    assert student.initial == {
        "init": "teacher",
        "layers": [0, 1, 2, 3],
        "kl": "not measured: no training rows were given",
    }


def test_layers_are_chosen_as_asked() -> None:
    teacher = teacher_of("mistral")
    for how in ("uniform", "block_influence", "kl"):
        student = cut(teacher, layers=2, layer_importance=how)
        assert tuple(student.initial["layers"]) == choose_layers(teacher, BATCHES[1:], 2, how).layers
        assert ("layer_scores" in student.initial) == (how != "uniform")
        assert student.initial["layer_importance"] == how
    for batches, how in ((BATCHES, "block_influence"), ([], "uniform")):
        assert cut(teacher, batches, layers=2).initial["layer_importance"] == how
    assert cut(teacher, layers=(1, 2)).initial["layers"] == [1, 2]


def test_the_seed_alone_decides_what_is_drawn() -> None:
    teacher = teacher_of(tied=True)
    sizes = {"layers": 3, "hidden_size": 12, "heads": 2, "init": "embeddings"}
    state = torch.get_rng_state()
    first, again, other = (cut(teacher, seed=seed, **sizes).model.state_dict() for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first[name], other[name])
    assert torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    columns = {tuple(column) for column in teacher.model.embed_tokens.weight.T.tolist()}
    assert {tuple(column) for column in first["model.embed_tokens.weight"].T.tolist()} < columns


def test_random_keeps_the_shape_and_copies_nothing() -> None:
    teacher = teacher_of("smollm3")
    sizes = {"layers": 2, "hidden_size": 12, "vocabulary": VocabularySpec()}
    copied, random = cut(teacher, **sizes), cut(teacher, batches=[], way="random", **sizes)
    assert {n: v.shape for n, v in copied.model.state_dict().items()} == {
        n: v.shape for n, v in random.model.state_dict().items()
    }
    assert random.initial["init"] == "random"
    assert random.initial["tensors_copied"] == 0
    assert not torch.equal(random.model.lm_head.weight, copied.model.lm_head.weight)
    larger = cut(teacher, batches=[], hidden_size=32, heads=8, key_value_heads=8, init="random")
    assert sum(p.numel() for p in larger.model.parameters()) > sum(p.numel() for p in teacher.parameters())


def test_dropout_is_the_student_s() -> None:
    student = cut(teacher_of(attention_dropout=0.3), layers=2, dropout=0.1)
    assert student.model.config.attention_dropout == 0.1
    assert {layer.self_attn.attention_dropout for layer in student.model.model.layers} == {0.1}


def test_sizes_that_no_step_could_have_alone() -> None:
    """A llama's heads must divide its width: 3 do not divide 16, on the way to 3 heads of width 12."""
    student = cut(teacher_of(num_attention_heads=4, num_key_value_heads=4), hidden_size=12, heads=3)
    assert (student.model.config.hidden_size, student.model.config.num_attention_heads) == (12, 3)
    assert student.model.config.head_dim == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layers": 9, "hidden_size": 20},
            "student.layers: 9 layers cannot be cut(.|\n)*student.hidden_size: 20 is more",
        ),
        ({"max_positions": 8}, "student.max_positions: a llama has rotary positions"),
        (
            {"layers": 2, "layer_importance": "kl", "batches": []},
            "kl is measured on training rows, but none were given",
        ),
        ({"hidden_size": 12, "heads": 4, "batches": []}, "chosen on training rows, but none were given"),
    ],
)
def test_cuts_that_cannot_be(changes: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        cut(teacher_of(), **changes)


def test_a_recipe_s_student_is_cut_by_the_same_door() -> None:
    task = make_task(TextClassificationSpec(kind="text_classification"), ("a", "b"))
    spec = FromTeacherSpec(kind="from_teacher", layers=2, layer_importance="kl", vocabulary=KEEP_ALL)
    teacher = teacher_of()
    inputs = {"teacher": teacher, "processor": TOKENIZER, "texts": TEXTS, "batches": BATCHES, "seed": 0}
    assert build_student(spec, task, **inputs).initial == cut(teacher, layers=2, layer_importance="kl").initial
    words = tiny_tokenizer(TEXTS)
    inputs |= {"teacher": tiny_bert(words, ("a", "b")), "processor": words}
    with pytest.raises(PlanError, match=r"student\.layer_importance: kl is for causal language models"):
        build_student(spec, task, **inputs)
