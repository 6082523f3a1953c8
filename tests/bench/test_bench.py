"""Measuring: workers that answer, ratios that are right, sizes by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn

from attar.bench.flops import count_flops
from attar.bench.interleave import interleave, ratio
from attar.bench.matrix import measure, repeated
from attar.bench.measure import latency, median_row
from attar.bench.process import Subject
from attar.bench.size import count_params, weight_bytes
from attar.bench.worker import serve, timed
from attar.facts import SourceFacts
from attar.recipe.task import TextClassificationSpec
from attar.recipe.teacher import LocalTeacherSpec
from attar.tasks import make_task
from attar.teachers.fitted import FittedFacts, save_fitted
from tiny import save, tiny_bert, tiny_tokenizer

LABELS = ("a", "b")
TEXTS = ["one", "one two three four five", "one two three"]
SPEC = TextClassificationSpec(kind="text_classification", max_length=16)
TASK = make_task(SPEC, LABELS)
TOKENIZER = tiny_tokenizer(TEXTS)


def linear_graph(path: Path) -> Path:
    """y = x W as an ONNX file."""
    tensor, helper = onnx.TensorProto.FLOAT, onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", tensor, ["batch", 4])],
        [helper.make_tensor_value_info("logits", tensor, ["batch", 2])],
        [onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_an_onnx_file_is_measured_and_a_broken_one_is_not(tmp_path: Path) -> None:
    x = {"x": np.ones((1, 4), np.float32)}
    found = latency(
        {
            "file": Subject("onnx", x, linear_graph(tmp_path / "m.onnx"), dtype="int8"),
            "absent": Subject("onnx", x, tmp_path / "absent.onnx"),
            "other": Subject("onnx", {"y": x["x"]}, tmp_path / "m.onnx"),
        },
        repeats=3,
    )
    one = found.measured["file"]
    assert (one.unit, one.n, one.threads, one.dtype) == ("ms", 3, 1, "int8")
    assert 0 < one.lo <= one.value <= one.hi < 1000
    assert one.value == np.median(found.repeats["file"])
    assert one.p95 > 0
    assert "onnxruntime" in one.method
    assert "x [1, 4]" in one.method
    assert [one.cpu_seconds > 0 for one in found.taken["file"]] == [True] * 3
    assert set(found.reasons) == {"absent", "other"}
    assert found.reasons["absent"].startswith("not measured: ")


@pytest.mark.slow
def test_a_transformers_folder_is_measured(tmp_path: Path) -> None:
    save(tiny_bert(TOKENIZER, LABELS), TOKENIZER, tmp_path)
    encoded = TASK.encode(Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0]}), TOKENIZER)
    batch = TASK.batch(encoded, [median_row(encoded)], TOKENIZER)
    inputs = {name: value.numpy() for name, value in batch.items()}
    found = latency({"student": Subject("folder", inputs, tmp_path, SPEC, LABELS)}, repeats=3)
    assert not found.reasons
    assert "input_ids [1, 5]" in found.measured["student"].method
    assert "torch" in found.measured["student"].method


def test_a_worker_loads_times_and_reports(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((1, 4), np.float32))
    load = {
        "kind": "onnx",
        "path": str(linear_graph(tmp_path / "m.onnx")),
        "inputs": str(tmp_path / "x.npz"),
        "threads": 1,
    }
    replies = io.StringIO()
    serve(io.StringIO(f"{json.dumps({'load': load})}\n{json.dumps({'time': 4})}\n"), replies)
    ready, times = (json.loads(line) for line in replies.getvalue().splitlines())
    assert ready["ready"]["runtime"].startswith("onnxruntime ")
    assert len(times["seconds"]) == 4
    assert min(times["seconds"]) > 0


def test_a_worker_tells_its_memory_and_takes_other_batches(tmp_path: Path) -> None:
    graph, one, many = linear_graph(tmp_path / "m.onnx"), tmp_path / "1.npz", tmp_path / "8.npz"
    for file, rows in ((one, 1), (many, 8)):
        np.savez(file, x=np.ones((rows, 4), np.float32))
    load = {"kind": "onnx", "path": str(graph), "inputs": str(one), "threads": 1}
    questions = [{"load": load}, {"time": 3, "inputs": str(many)}, {"memory": True}, {"time": 1, "inputs": "absent"}]
    replies = io.StringIO()
    serve(io.StringIO("".join(json.dumps(question) + "\n" for question in questions)), replies)
    ready, times, memory, failed = (json.loads(line) for line in replies.getvalue().splitlines())
    assert ready["ready"]["seconds"] > 0
    assert len(times["seconds"]) == 3
    assert 0 < times["cpu_seconds"] < 10
    assert memory["bytes"] > 10_000_000
    assert "absent" in failed["error"]


def test_a_row_repeated_fills_a_batch_without_padding() -> None:
    row = {"input_ids": np.array([[5, 6, 7]]), "past": np.zeros((1, 2, 0, 4))}
    found = repeated(row, 3)
    assert {name: value.shape for name, value in found.items()} == {"input_ids": (3, 3), "past": (3, 2, 0, 4)}
    assert (found["input_ids"] == row["input_ids"]).all()


def test_models_are_measured_with_every_batch_and_a_broken_one_is_told(tmp_path: Path) -> None:
    """A batch that a file refuses takes that model out from there on; the others go on."""
    x = {"x": np.ones((1, 4), np.float32)}
    fixed = onnx.load(linear_graph(tmp_path / "m.onnx"))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(fixed, tmp_path / "fixed.onnx")
    subjects = {
        "free": Subject("onnx", x, tmp_path / "m.onnx"), "fixed": Subject("onnx", x, tmp_path / "fixed.onnx"),
        "absent": Subject("onnx", x, tmp_path / "absent.onnx"),
    }  # fmt: skip
    said: list[str] = []
    found = measure(subjects, [4, 1], threads=1, repeats=2, seconds=0.005, say=said.append)
    assert list(found["free"].batches) == [1, 4]
    assert list(found["fixed"].batches) == [1]
    assert [reason.split(":")[0] for reason in found["fixed"].reasons] == ["batch 4"]
    assert found["absent"].reasons[0].startswith("not measured: ")
    assert found["absent"].load_seconds is None
    taken = found["free"].batches[4]
    assert taken.latency.n == len(taken.repeats) == len(taken.spent) == 2
    assert "x [4, 4]" in taken.latency.method
    assert said[-2:] == [f"batches of {size}: 2 models, 2 interleaved repeats" for size in (1, 4)]


def fitted_folder(folder: Path) -> Path:
    """A fitted teacher with a head of its own."""
    facts = FittedFacts(
        fit="full", form="model", labels=LABELS, problem="single_label", metric="accuracy", validation=None,
        train_rows=1, validation_rows=0, seconds=0, seed=0, source=SourceFacts(role="teacher", name="tiny", hash="0"),
    )  # fmt: skip
    save_fitted(tiny_bert(TOKENIZER, LABELS), TOKENIZER, facts, folder)
    return folder


@pytest.mark.parametrize("kind", ["folder", "fitted", "local"])
def test_a_worker_loads_torch_models_through_their_task(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "model"
    if kind == "fitted":
        fitted_folder(place)
    else:
        save(tiny_bert(TOKENIZER, LABELS), TOKENIZER, place)
    np.savez(tmp_path / "x.npz", input_ids=np.ones((1, 4), np.int64), attention_mask=np.ones((1, 4), np.int64))
    load = {
        "kind": kind, "path": None if kind == "local" else str(place), "inputs": str(tmp_path / "x.npz"), "threads": 1,
        "task": SPEC.model_dump(mode="json"), "labels": LABELS,
        "teacher": LocalTeacherSpec(kind="local", model=str(place)).model_dump(mode="json"),
    }  # fmt: skip
    threads, replies = torch.get_num_threads(), io.StringIO()
    serve(io.StringIO(f"{json.dumps({'load': load})}\n{json.dumps({'time': 2})}\n"), replies)
    torch.set_num_threads(threads)
    ready, times = (json.loads(line) for line in replies.getvalue().splitlines())
    assert "torch" in ready["ready"]["runtime"]
    assert len(times["seconds"]) == 2


def test_calls_are_counted() -> None:
    calls: list[int] = []
    assert len(timed(lambda: calls.append(1), 5)) == len(calls) == 5


def test_jobs_take_turns_and_neither_is_always_first() -> None:
    seen: list[str] = []
    found = interleave({name: lambda name=name: float(len(seen.append(name) or seen)) for name in "ab"}, 3)
    assert "".join(seen) == "abbaab"
    assert found == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_ratios_are_paired() -> None:
    found = ratio([2, 4, 6, 8], [1, 2, 3, 4])
    assert (found.value, found.lo, found.hi, found.n) == (2, 2, 2, 4)
    spread = ratio([1.0, 1.1, 1.3], [1.0, 1.0, 1.0])
    assert spread.value == pytest.approx(1.1)
    assert spread.lo <= spread.value <= spread.hi
    assert ratio([3.0], [2.0]).value == 1.5


def test_the_median_row_is_the_lower_median_and_the_first() -> None:
    encoded = TASK.encode(Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0]}), TOKENIZER)
    assert median_row(encoded) == 2
    even = TASK.encode(Dataset.from_dict({"text": [*TEXTS, "one two"], "label": [0, 1, 0, 0]}), TOKENIZER)
    assert median_row(even) == 3


class Tied(nn.Module):
    """An embedding whose weight is the head's too, a buffer, and half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10)
        self.head.weight = self.embed.weight
        self.register_buffer("count", torch.zeros(3, dtype=torch.int64))
        self.small = nn.Parameter(torch.zeros(5, dtype=torch.float16))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.embed(input_ids))


def test_sizes_count_tied_weights_once_and_floats_as_fp32() -> None:
    assert count_params(Tied()) == 40 + 10 + 5
    assert weight_bytes(Tied()) == 4 * (40 + 10 + 5) + 8 * 3


def test_bytes_are_those_of_a_safetensors_file(tmp_path: Path) -> None:
    model = tiny_bert(TOKENIZER, LABELS)
    file = save(model, TOKENIZER, tmp_path) / "model.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert weight_bytes(model) == file.stat().st_size - 8 - header


def test_flops_by_hand() -> None:
    model = Tied().train()
    found = count_flops(model, {"input_ids": torch.zeros(3, 7, dtype=torch.int64)})
    assert found == (2 * 3 * 7 * 4 * 10, None)
    assert model.training


def test_attention_is_counted() -> None:
    """Per layer: four projections and two feed-forward products of all tokens, and two products of token pairs."""
    model, tokens, width = tiny_bert(TOKENIZER, LABELS, hidden=32, layers=1), 6, 32
    inputs = {"input_ids": torch.ones(1, tokens, dtype=torch.int64)}
    layer = 4 * tokens * width**2 + 2 * tokens * width * 2 * width + 2 * tokens**2 * width
    pooler_and_head = width**2 + width * len(LABELS)
    assert count_flops(model, inputs).value == 2 * (layer + pooler_and_head)


class Refusing(nn.Module):
    """A model that nothing can run."""

    def forward(self, **_: Tensor) -> Tensor:
        raise RuntimeError("no kernel\nlong text")


def test_what_cannot_be_counted_says_why() -> None:
    assert count_flops(Refusing(), {}) == (None, "not counted: RuntimeError: no kernel")
    value, note = count_flops(nn.Identity(), {"input": torch.ones(1)})
    assert value is None
    assert note.startswith("not counted")
