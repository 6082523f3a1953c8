"""Language modelling: what is learned, how texts, prompts and chats become tokens, and which places tell them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from attar.errors import DataError
from attar.recipe.task import CausalLMSpec
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import targets_of
from tiny_language import END, TEXTS, tiny_bpe, tiny_llama

TOKENIZER = tiny_bpe()
CHATTY = tiny_bpe(chat=True)


def task(**fields: object) -> CausalLM:
    return CausalLM(CausalLMSpec(kind="causal_lm", **fields))


def words(ids: np.ndarray, learned: np.ndarray | None = None) -> str:
    return TOKENIZER.decode(ids if learned is None else ids[learned])


def test_a_plain_text_is_learned_but_for_its_first_token() -> None:
    made = task().encode(Dataset.from_dict({"text": TEXTS[:3]}), TOKENIZER)
    for ids, learned, text in zip(made.inputs["input_ids"], made.learned, TEXTS, strict=False):
        assert words(ids) == text + END
        assert learned.tolist() == [False] + [True] * (len(ids) - 1)
    assert made.labels.tolist() == [len(ids) - 1 for ids in made.inputs["input_ids"]]
    assert made.truncated == 0


def test_a_long_text_becomes_pieces_that_learn_each_token_once() -> None:
    text = " ".join(TEXTS)
    whole = task(max_length=64).encode(Dataset.from_dict({"text": [text, "short"]}), TOKENIZER)
    ids = TOKENIZER(text)["input_ids"] + [TOKENIZER.eos_token_id]
    told = [int(i) for row in range(len(whole)) if whole.owners[row] == 0
            for i in whole.inputs["input_ids"][row][whole.learned[row]]]  # fmt: skip
    assert told == ids[1:]
    assert whole.lengths.max() <= 64
    assert whole.owners.tolist() == sorted(whole.owners.tolist())
    assert whole.owners[-1] == 1


def test_of_a_prompt_with_its_answer_the_answer_is_learned() -> None:
    rows = Dataset.from_dict({"prompt": ["who sees?"], "text": [" the cat"]})
    (ids,), (learned,) = (lambda e: (e.inputs["input_ids"], e.learned))(task(prompt="question").encode(rows, TOKENIZER))
    assert words(ids) == "who sees? the cat" + END
    assert words(ids, learned) == " the cat" + END
    both = task(prompt="question", learn="all").encode(rows, TOKENIZER).learned[0]
    assert both.tolist() == [False] + [True] * (len(ids) - 1)


def test_a_template_writes_chats_and_prompts_alike() -> None:
    chat = [{"role": "user", "content": "who sees?"}, {"role": "assistant", "content": "the cat"}]
    more = [*chat, {"role": "user", "content": "and?"}, {"role": "assistant", "content": "the dog"}]
    chats = task(messages="chat").encode(Dataset.from_dict({"messages": [json.dumps(chat), json.dumps(more)]}), CHATTY)
    prompted = task(prompt="q").encode(Dataset.from_dict({"prompt": ["who sees?"], "text": ["the cat"]}), CHATTY)
    np.testing.assert_array_equal(chats.inputs["input_ids"][0], prompted.inputs["input_ids"][0])
    whole = CHATTY.apply_chat_template(more, tokenize=False)
    assert CHATTY.decode(chats.inputs["input_ids"][1]) == whole
    said = CHATTY.decode(chats.inputs["input_ids"][1][chats.learned[1]])
    assert said == f"the cat{END}\nthe dog{END}\n"
    plain = task(messages="chat", template="never").encode(Dataset.from_dict({"messages": [json.dumps(chat)]}), CHATTY)
    assert CHATTY.decode(plain.inputs["input_ids"][0]) == "who sees?the cat" + END


def test_a_template_that_rewrites_the_past_is_refused() -> None:
    tokenizer = tiny_bpe(chat=True)
    tokenizer.chat_template = "{% for m in messages %}{{ messages|length }}{{ m['content'] }}{% endfor %}"
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(DataError, match="row 0: the chat template writes the first messages"):
        task(messages="chat").encode(Dataset.from_dict({"messages": [json.dumps(chat)]}), tokenizer)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="refuses this chat: roles must alternate"):
        task(messages="chat").encode(Dataset.from_dict({"messages": [json.dumps(chat)]}), tokenizer)


def test_what_is_cut_is_counted() -> None:
    rows = Dataset.from_dict({"prompt": ["who sees?"] * 2, "text": [" ".join(TEXTS), "the cat"]})
    made = task(prompt="q", max_length=32).encode(rows, TOKENIZER)
    assert made.truncated == 1
    assert made.lengths.max() == 32


def test_targets_are_the_logits_before_each_learned_token() -> None:
    """Against Transformers' own loss, which shifts labels itself."""
    model = tiny_llama(TOKENIZER)
    rows = Dataset.from_dict(
        {"prompt": ["who sees?", "what does the dog want, really?"], "text": [" the cat", " the moon."]}
    )
    one = task(prompt="q")
    encoded = one.encode(rows, TOKENIZER)
    batch = one.batch(encoded, [1, 0], TOKENIZER)
    targets = targets_of(encoded, [1, 0])
    labels = torch.full_like(batch["input_ids"], -100)
    for row, number in enumerate([1, 0]):
        learned = torch.from_numpy(encoded.learned[number])
        labels[row, : len(learned)][learned] = batch["input_ids"][row, : len(learned)][learned]
    theirs = model(**batch, labels=labels)
    logits = theirs.logits.flatten(0, 1)[torch.from_numpy(targets.positions)]
    ours = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets.labels))
    torch.testing.assert_close(ours, theirs.loss)
    assert len(set(targets.keys.tolist())) == len(targets.keys)
    again = targets_of(encoded, [0])
    np.testing.assert_array_equal(again.keys, targets.keys[targets.sequences == 1])


def test_content_keys_tell_all_texts() -> None:
    rows = Dataset.from_dict({"prompt": ["a", "ab", "a"], "text": ["bc", "c", "bc"]})
    keys = task(prompt="q").content_keys(rows)
    assert keys[0] == keys[2] != keys[1]
