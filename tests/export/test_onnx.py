"""Exported files: same answers, small, quiet, the same bytes twice, and refused where they answer differently."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn

from attar.errors import ExportError, MissingExtra, ParityError
from attar.export.classifier import write_artifact
from attar.export.exporter import single_rows, trace_rows
from attar.export.graph import float_weights, trace_graph, weight_bytes
from attar.export.quantize import quantize
from attar.export.runtimes.onnx import OnnxRunner
from attar.hashing import sha256
from attar.recipe.outcome import OnnxSpec, WebSpec
from attar.recipe.task import TextClassificationSpec
from attar.tasks import make_task
from export.cases import LABELS, Case
from tiny import tiny_tokenizer

FP32, INT8 = OnnxSpec(kind="onnx", precision="fp32"), OnnxSpec(kind="onnx", precision="int8")
LOOSE = OnnxSpec(kind="onnx", precision="int8", min_agreement=0.0)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_fp32_answers_like_the_checkpoint(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    case: Case = request.getfixturevalue(kind)
    found = case.export(tmp_path, FP32)
    assert found.facts.parity.max_abs < 1e-4
    assert found.facts.parity.agreement == 1
    assert found.facts.parity.kl == pytest.approx(0, abs=1e-6)
    assert found.facts.path == "export/onnx-fp32"
    assert found.facts.outputs == ["logits"]
    assert found.facts.quality is found.facts.latency_ms is None
    np.testing.assert_allclose(found.logits, case.logits, atol=1e-4)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_int8_keeps_the_answers_in_a_smaller_file(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    case: Case = request.getfixturevalue(kind)
    large, small = (case.export(tmp_path, spec) for spec in (FP32, INT8))
    assert small.facts.parity.agreement >= 0.97
    assert 0 < small.facts.parity.max_abs
    assert small.facts.parity.bound_max_abs is None
    assert (small.folder / "model.onnx").stat().st_size < (large.folder / "model.onnx").stat().st_size
    assert ("static" if kind == "image" else "dynamic") in small.facts.note


def test_the_folder_holds_all_that_is_needed(text: Case, tmp_path: Path) -> None:
    found = text.export(tmp_path, INT8)
    files = {path.name: path.stat().st_size for path in found.folder.iterdir()}
    own = {"model.onnx", "config.json", "attar.json"}
    assert own | {"tokenizer.json", "tokenizer_config.json"} <= files.keys()
    assert found.facts.bytes == sum(files[name] for name in own)
    assert found.facts.tokenizer_bytes == sum(size for name, size in files.items() if name not in own)
    card = json.loads((found.folder / "attar.json").read_text())
    assert card["labels"] == list(LABELS)
    assert card["temperature"] == 1.5
    assert card["inputs"] == found.facts.inputs
    assert set(found.facts.inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    digest = hashlib.sha256((found.folder / "model.onnx").read_bytes()).hexdigest()
    assert card["model"]["sha256"] == found.facts.sha256 == digest
    properties = {one.key: one.value for one in onnx.load(found.folder / "model.onnx").metadata_props}
    assert json.loads(properties["attar.labels"]) == list(LABELS)
    assert json.loads(properties["attar.temperature"]) == 1.5


def test_batch_and_sequence_are_free(text: Case, tmp_path: Path) -> None:
    runner = write_artifact(text.trained, tmp_path / "x", FP32)
    for size in (1, 3, 7):
        batch = text.task.batch(text.rows, range(size), text.processor)
        np.testing.assert_allclose(runner(batch), text.logits[:size], atol=1e-4)
    shape = [[d.dim_param for d in one.type.tensor_type.shape.dim] for one in text.graph.graph.input]
    assert shape == [["batch", "sequence"]] * 3


def test_the_same_model_gives_the_same_bytes_without_paths(text: Case, tmp_path: Path) -> None:
    one, other = (text.export(tmp_path / name, INT8) for name in ("one", "other"))
    assert one.facts.sha256 == other.facts.sha256
    for path in (one.folder / "model.onnx", tmp_path / "fp32"):
        content = path.read_bytes() if path.exists() else text.graph.SerializeToString()
        assert b"site-packages" not in content
        assert b"stack_trace" not in content


def test_nothing_is_printed_or_logged(
    text: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    text.export(tmp_path, INT8)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert caplog.records == []


def test_a_file_that_misses_its_bound_is_not_handed_over(text: Case, tmp_path: Path) -> None:
    text.export(tmp_path, FP32)
    strict = OnnxSpec(kind="onnx", precision="fp32", max_abs=1e-9)
    with pytest.raises(ParityError, match=r"logits differ by up to .* allowed are 1e-09 .max_abs.*not handed over"):
        text.export(tmp_path, strict)
    assert not (tmp_path / "export" / "onnx-fp32").exists()
    refused = tmp_path / "export" / "onnx-fp32.refused"
    assert "allowed are 1e-09" in (refused / "REFUSED.txt").read_text()
    text.export(tmp_path, FP32)
    assert not refused.exists()


def test_a_file_with_other_answers_is_refused(text: Case, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"agreement is 0\.\d+, at least 0.97 is asked"):
        text.export(tmp_path, INT8, logits=np.roll(text.logits, 1, axis=1))


class Regression(nn.Module):
    """One number from the mean of embeddings; most of its weights stand where int8 does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(64, 256))
        self.offset = nn.Parameter(torch.randn(256))

    def forward(self, pixel_values: Tensor) -> Tensor:
        flat = pixel_values.flatten(1)[:, :1]
        return (torch.tanh(flat[..., None] * self.table) * self.offset).sum((1, 2))[:, None]


def test_int8_that_would_change_nothing_is_refused() -> None:
    example = {"pixel_values": torch.randn(2, 3, 8, 8)}
    graph = trace_graph(Regression(), example, 20)
    assert float_weights(graph)
    with pytest.raises(ExportError, match=r"int8: only 0% of \d+ bytes of weights can be quantized .*fp32"):
        quantize(graph, [])


class Wide(nn.Module):
    """A matrix of more numbers than the exporter folds."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(192, 6000)
        self.outer = nn.Linear(6000, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.outer(self.inner(pixel_values.flatten(1)[:, None]).relu())[:, 0]


def test_large_matrices_are_turned_once_and_quantized_too() -> None:
    torch.manual_seed(0)
    example = {"pixel_values": torch.randn(2, 3, 8, 8)}
    graph = trace_graph(Wide(), example, 20)
    weights = {one.name for one in graph.graph.initializer}
    assert not [one for one in graph.graph.node if one.op_type == "Transpose" and one.input[0] in weights]
    small, _ = quantize(graph, [])
    assert weight_bytes(small) < 0.3 * weight_bytes(graph)


class Deciding(nn.Module):
    """What it computes depends on the values."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.flatten(1) if pixel_values.sum() > 0 else -pixel_values.flatten(1)


class Fixed(nn.Module):
    """Its code fixes the batch."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.flatten(1)[:, :3] * (2.0 if len(pixel_values) == 2 else 1.0)


@pytest.mark.parametrize(("model", "reason"), [(Deciding(), "cannot be exported"), (Fixed(), "static shape of 2")])
def test_a_model_that_cannot_be_exported_says_why(model: nn.Module, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        trace_graph(model, {"pixel_values": torch.ones(2, 3, 8, 8)}, 20)


def test_an_operator_that_the_runtime_lacks_is_named(text: Case, tmp_path: Path) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(text.graph)
    graph.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"onnxruntime .* cannot run it .*NoSuchOperator"):
        OnnxRunner(tmp_path)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime", "onnxruntime.quantization"])
def test_an_absent_package_gives_the_pip_command(
    package: str, text: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r'"onnx.*pip install "attar\[onnx\]"'):
        text.export(tmp_path, INT8, trained=text.trained if package.startswith("onnxruntime") else text.untraced())


def test_inputs_of_another_model_are_named(text: Case, tmp_path: Path) -> None:
    found = text.export(tmp_path, FP32)
    with pytest.raises(ExportError, match="attention_mask"):
        OnnxRunner(found.folder)({"input_ids": np.ones((1, 3), np.int64)})


def test_no_rows_give_no_logits(text: Case, tmp_path: Path) -> None:
    found = text.export(tmp_path, FP32)
    assert OnnxRunner(found.folder).logits([]).shape == (0, 3)


def test_tracing_twice_gives_the_same_graph_and_leaves_the_mode(image: Case) -> None:
    image.model.train()
    again = trace_rows(image.model, image.task, image.processor, image.rows, 20)
    assert image.model.training
    image.model.eval()
    assert again.SerializeToString(deterministic=True) == image.graph.SerializeToString(deterministic=True)


@pytest.mark.slow
def test_a_student_of_700_thousand_parameters_takes_under_900_kilobytes(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    texts = [" ".join(f"w{j}" for j in range(i, i + 8)) for i in range(0, 2000, 8)]
    tokenizer = tiny_tokenizer(texts)
    labels = tuple(f"label {i}" for i in range(77))
    model = BertForSequenceClassification(BertConfig(
        vocab_size=2200, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512,
        max_position_embeddings=128, id2label=dict(enumerate(labels)),
    )).eval()  # fmt: skip
    task = make_task(TextClassificationSpec(kind="text_classification"), labels)
    case = Case(task, tokenizer, Dataset.from_dict({"text": texts, "label": [0] * len(texts)}), model)
    sizes = [case.export(tmp_path, spec).facts.bytes for spec in (FP32, LOOSE)]
    assert sum(p.numel() for p in model.parameters()) > 700_000
    assert sizes[1] < 900_000
    assert sizes[0] / sizes[1] > 3.5


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize(("precision", "file"), [("fp32", "model.onnx"), ("int8", "model_quantized.onnx")])
def test_a_web_export_stands_where_transformers_js_looks_for_it(
    kind: str, precision: str, file: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    case: Case = request.getfixturevalue(kind)
    spec = WebSpec.model_validate({"kind": "web", "precision": precision, "min_agreement": 0.0})
    found = case.export(tmp_path, spec)
    assert found.facts.path == f"export/web-{precision}"
    beside = {"tokenizer.json", "tokenizer_config.json"} if kind == "text" else {"preprocessor_config.json"}
    assert beside | {"config.json", "attar.json", f"onnx/{file}"} == set(found.facts.files)
    assert all(sha256(found.folder / name) == digest for name, digest in found.facts.files.items())
    assert found.facts.files[f"onnx/{file}"] == found.facts.sha256
    assert found.facts.outputs == ["logits"], "the name that transformers.js asks for"
    rows = single_rows(case.task, case.rows, case.processor)
    np.testing.assert_array_equal(OnnxRunner(found.folder).logits(rows), found.logits)
