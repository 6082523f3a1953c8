"""A written GGUF file holds the very model, or what its blocks can hold, and spells texts as its tokenizer did."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import tiny
from attar.errors import ExportError, MissingExtra, StorageError
from attar.export.gguf import left_in_f16, write_gguf
from attar.gguf_header import read_header
from attar.students.vocabulary import reduce_vocabulary
from attar.teachers.gguf import read_gguf

gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install 'attar[lm]'")

from teachers import gguf_files as made  # noqa: E402  (imports gguf)

BYTES = made.byte_tokenizer()
SHAPES = {
    "tied": {},
    "untied": {"tied": False},
    "one head of keys": {"groups": 1, "tied": False},
    "as many keys as queries": {"groups": 4},
    "wide heads": {"head_dim": 32},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
        }
    },
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "out" / "student.gguf"


def write(model: object, file: Path, precision: str = "f32", tokenizer: object = BYTES) -> Path:
    write_gguf(model, tokenizer, file, precision=precision, name="tiny student")
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return file


@pytest.mark.parametrize("shape", SHAPES)
def test_f32_gives_the_model_back(shape: str, file: Path) -> None:
    model = made.tiny_llama(**SHAPES[shape])
    read, _ = read_gguf(write(model, file))
    ours, wanted = made.logits(read), made.logits(model)
    if shape == "llama3":  # factors are divided by, where Transformers interpolates
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(ours, wanted)
    assert ("output.weight" in read_header(file).tensors) == (not model.config.tie_word_embeddings)


@pytest.mark.parametrize("precision", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("tied", [True, False])
def test_blocks_hold_what_the_quantizer_says(precision: str, tied: bool, file: Path) -> None:
    model = made.tiny_llama(tied=tied)
    oracle = made.tiny_llama(tied=tied)
    with torch.no_grad():
        for name, weight in oracle.named_parameters():
            if weight.dim() == 2:
                wide = precision == "q4_0" and ("embed_tokens" in name or "lm_head" in name)
                kind = gguf.GGMLQuantizationType["Q8_0" if wide else precision.upper()]
                blocks = gguf.quants.quantize(weight.numpy().copy(), kind)
                weight.copy_(torch.from_numpy(np.array(gguf.quants.dequantize(blocks, kind), dtype=np.float32)))
    read, _ = read_gguf(write(model, file, precision))
    assert torch.equal(made.logits(read), made.logits(oracle))
    assert not torch.equal(made.logits(read), made.logits(model))
    kinds = {name: entry.kind for name, entry in read_header(file).tensors.items()}
    own, words = gguf.GGMLQuantizationType[precision.upper()], {"token_embd.weight", "output.weight"}
    assert {kinds[name] for name in kinds if "norm" not in name and name not in words} == {own}
    assert {kinds[name] for name in kinds if name in words} == {
        gguf.GGMLQuantizationType.Q8_0 if precision == "q4_0" else own
    }
    assert {kinds[name] for name in kinds if "norm" in name} == {gguf.GGMLQuantizationType.F32}


def test_transformers_reads_what_was_written(file: Path) -> None:
    model = made.tiny_llama(len(BYTES), tied=False)
    write(model, file)
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    assert torch.equal(made.logits(theirs), made.logits(model))


def test_rows_stand_in_llama_cpps_order(file: Path) -> None:
    model = made.tiny_llama()
    entry = read_header(write(model, file)).tensors["blk.1.attn_k.weight"]
    rows = np.fromfile(file, "<f4", 32 * 64, offset=entry.start).reshape(32, 64)
    own = model.model.layers[1].self_attn.k_proj.weight.detach().numpy()
    assert np.array_equal(rows, own[made.order(32, 2)])
    assert not np.array_equal(rows, own)


def test_the_file_says_what_it_is(file: Path) -> None:
    model = made.tiny_llama(rope_parameters={"rope_type": "default", "rope_theta": 123456.0})
    model.generation_config.eos_token_id = [2, 17, 0]
    values = read_header(write(model, file, "q8_0")).values
    said = {
        "general.architecture": "llama", "general.name": "tiny student", "general.file_type": 7,
        "llama.block_count": 2, "llama.context_length": 128, "llama.embedding_length": 64,
        "llama.feed_forward_length": 96, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 123456.0, "llama.rope.dimension_count": 16, "llama.vocab_size": 400,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.eot_token_id": 0, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False, "tokenizer.chat_template": made.TEMPLATE,
    }  # fmt: skip
    assert {key: values.get(key) for key in said} == said
    kinds = values["tokenizer.ggml.token_type"]
    assert kinds[:4] == [3, 3, 3, 1]
    assert kinds[len(BYTES) :] == [5] * (400 - len(BYTES))
    assert "attar.left_in_f16" not in values


def test_rows_that_no_block_fits_stay_in_f16_and_are_named(file: Path) -> None:
    model = made.tiny_llama(intermediate_size=90)
    named = ("blk.0.ffn_down.weight", "blk.1.ffn_down.weight")
    assert left_in_f16(model, "q4_0") == named
    assert left_in_f16(model, "f16") == ()
    header = read_header(write(model, file, "q4_0"))
    assert header.values["attar.left_in_f16"] == list(named)
    assert {header.tensors[name].kind for name in named} == {gguf.GGMLQuantizationType.F16}
    assert header.tensors["blk.0.ffn_up.weight"].kind == gguf.GGMLQuantizationType.Q4_0
    read_gguf(file)


def test_the_same_model_gives_the_same_bytes(file: Path) -> None:
    first = write(made.tiny_llama(), file, "q4_0").read_bytes()
    assert write(made.tiny_llama().to(torch.float64), file, "q4_0").read_bytes() == first


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WAYS = {
    "smollm": (made.smollm_splitter(), False),
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False), False),
    "llama-bpe": (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        True,
    ),
}


@pytest.mark.parametrize("pre", WAYS)
@pytest.mark.parametrize("ends", [(), ("first",), ("first", "last")])
def test_texts_are_spelled_as_before(pre: str, ends: tuple[str, ...], file: Path) -> None:
    splitter, whole = WAYS[pre]
    full = made.byte_tokenizer(
        splitter, ignore_merges=whole, plain=("<think>", "½½"), special=(*made.SPECIAL, "<two words>")
    )
    if ends:
        around = (["first"], ["last"] if "last" in ends else [])
        full.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=[*around[0], "$A", *around[1]],
            pair=[*around[0], "$A", *around[1], "$B:1"],
            special_tokens=[
                {"id": "first", "ids": [1], "tokens": ["<|im_start|>"]},
                {"id": "last", "ids": [2], "tokens": ["<|im_end|>"]},
            ],
        )
    texts = [*made.TEXTS, "<two words>½½ ½<think>\n", "a  1"]
    assert (full("a")["input_ids"][0] == 1) == bool(ends)
    _, read = read_gguf(write(made.tiny_llama(), file, tokenizer=full))
    assert read_header(file).values["tokenizer.ggml.pre"] == pre
    assert read(texts)["input_ids"] == full(texts)["input_ids"]
    assert read.decode(read(texts[1])["input_ids"], skip_special_tokens=True) == texts[1]
    turns = [{"role": "user", "content": "what?"}]
    assert read.apply_chat_template(turns) == full.apply_chat_template(turns)


def test_a_reduced_vocabulary_keeps_its_spelling(file: Path) -> None:
    full = made.byte_tokenizer(size=420, plain=("<think>",))
    used = made.TEXTS[:2]
    reduced = reduce_vocabulary(full, used)
    assert len(reduced.kept) < len(full)
    _, read = read_gguf(write(made.tiny_llama(len(reduced.kept)), file, "q8_0", reduced.tokenizer))
    for text in [*used, "<|im_start|>x<think><|im_end|>", made.TEXTS[2]]:
        assert read(text)["input_ids"] == reduced.tokenizer(text)["input_ids"]
    assert [reduced.kept[i] for i in read(used[0])["input_ids"]] == full(used[0])["input_ids"]
    assert read.special_tokens_map == full.special_tokens_map
    assert read.chat_template == made.TEMPLATE
    values = read_header(file).values
    ids = {name: values[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding", "unknown")}
    assert {name: values["tokenizer.ggml.tokens"][i] for name, i in ids.items()} == {
        "bos": "<|im_start|>", "eos": "<|im_end|>", "padding": "<|im_end|>", "unknown": "<|endoftext|>"
    }  # fmt: skip


def test_a_file_that_was_read_can_be_written_again(file: Path, tmp_path: Path) -> None:
    model = made.tiny_llama(**SHAPES["llama3"])
    read, tokenizer = read_gguf(write(model, file))
    tokenizer.chat_template = {"default": made.TEMPLATE, "tool_use": "tools"}
    again = write(read, tmp_path / "again" / "student.gguf", tokenizer=tokenizer)
    twice, spelled = read_gguf(again)
    assert twice.config.rope_parameters["rope_type"] == "longrope"
    torch.testing.assert_close(made.logits(twice), made.logits(model), rtol=1e-4, atol=1e-4)
    assert spelled.chat_template == tokenizer.chat_template
    assert spelled(made.TEXTS)["input_ids"] == tokenizer(made.TEXTS)["input_ids"]


def _qwen() -> object:
    return Qwen2ForCausalLM(
        Qwen2Config(vocab_size=400, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=96)
    )


def _with(**settings: object) -> object:
    return made.tiny_llama(**settings)


def _huge() -> object:
    model = made.tiny_llama()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e5
    return model


def test_float32_holds_what_halves_cannot_but_no_infinity(file: Path) -> None:
    model = _huge()
    read, _ = read_gguf(write(model, file))
    assert torch.equal(made.logits(read), made.logits(model))
    for value in (torch.inf, torch.nan):
        model.model.norm.weight.data[0] = value
        with pytest.raises(ExportError, match=rf"output_norm.weight holds {value}, which F32 cannot hold"):
            write_gguf(model, BYTES, file, precision="f32", name="tiny")


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
REFUSED = {
    "another family": (_qwen, "f32", r'a Qwen2ForCausalLM of model_type "qwen2" cannot be written'),
    "a bias": (lambda: _with(attention_bias=True), "f32", "attention_bias: True instead of False"),
    "another activation": (lambda: _with(hidden_act="gelu"), "f32", "hidden_act: 'gelu' instead of 'silu'"),
    "yarn": (lambda: _with(rope_parameters=YARN), "f32", "rope_type: 'yarn'"),
    "more than half can hold": (_huge, "f16", r"blk.0.ffn_up.weight holds 100000.0, which F16 cannot hold"),
    "fewer rows than tokens": (lambda: _with(vocabulary=300), "f32", "has the id 356, but the model has embeddings"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_would_answer_otherwise_is_refused(case: str, file: Path) -> None:
    build, precision, told = REFUSED[case]
    with pytest.raises(ExportError, match=told):
        write_gguf(build(), BYTES, file, precision=precision, name="tiny")
    assert not file.parent.exists() or not list(file.parent.iterdir())


def _changed(change: str) -> PreTrainedTokenizerFast:
    tokenizer = made.byte_tokenizer()
    backend = tokenizer.backend_tokenizer
    match change:
        case "prefix":
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        case "whole":
            backend.model.ignore_merges = True
        case "normalizer":
            backend.normalizer = normalizers.NFC()
        case "around":
            backend.post_processor = processors.TemplateProcessing(
                single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
            )
        case _:
            raise AssertionError(change)
    return tokenizer


SPELLED_OTHERWISE = {
    "prefix": r"splits texts by \[\{.*\"add_prefix_space\": true.*none of the ways that are known",
    "whole": r"ignore_merges: True",
    "normalizer": r"normalizes texts \(NFC\)",
    "around": r"with more than its begin and end tokens around it",
}


@pytest.mark.parametrize("change", SPELLED_OTHERWISE)
def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(change: str, file: Path) -> None:
    with pytest.raises(ExportError, match=SPELLED_OTHERWISE[change]):
        write_gguf(made.tiny_llama(), _changed(change), file, precision="f32", name="tiny")
    assert not list(file.parent.iterdir())


def test_other_kinds_of_tokenizer_are_refused(file: Path) -> None:
    with pytest.raises(ExportError, match="is a WordPiece, not a byte-level BPE"):
        write_gguf(made.tiny_llama(), tiny.tiny_tokenizer(["a b"]), file, precision="f32", name="tiny")
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    with pytest.raises(ExportError, match=r"splits texts by \[\] "):
        write_gguf(made.tiny_llama(), bare, file, precision="f32", name="tiny")


def test_a_full_disk_leaves_the_old_file(file: Path) -> None:
    write(made.tiny_llama(), file, "q4_0")
    before, (soft, hard) = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(StorageError, match=r"student.gguf.*: cannot write"):
            write_gguf(made.tiny_llama(), BYTES, file, precision="f32", name="tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_the_package_is_named_where_it_is_absent(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r'GGUF export needs the package "gguf".*attar\[lm\]'):
        write_gguf(made.tiny_llama(), BYTES, file, precision="f32", name="tiny")
