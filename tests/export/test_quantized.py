"""What a quantization-aware training computes is what the exported file answers; what is saved holds its numbers."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn

from attar.errors import PlanError
from attar.export.decoder import trace_decoder
from attar.export.decoder_weights import shrink
from attar.export.decoding import DecoderRunner
from attar.export.exporter import Trained, arrays, single_rows, trace_rows
from attar.export.gguf import write_gguf
from attar.export.graph import Graph, save_graph
from attar.export.onnx import export_onnx
from attar.export.quantize import quantize
from attar.export.runtimes import open_artifact
from attar.heads import body_states, project
from attar.recipe.outcome import OnnxSpec
from attar.recipe.quantization import QuantizationSpec
from attar.recipe.task import ImageClassificationSpec, TextClassificationSpec
from attar.tasks import Task, make_task
from attar.tasks.base import Encoded
from attar.teachers.gguf import read_gguf
from attar.training.rounding import Rounding
from teachers import gguf_files
from tiny import tiny_bert, tiny_image_model, tiny_image_processor, tiny_images, tiny_tokenizer
from tiny_causal import VOCABULARY, tiny_causal

LABELS = ("a", "b", "c")
INT8 = OnnxSpec(kind="onnx", precision="int8")


def rounding(model: nn.Module, precision: str = "int8", *, language: bool = False) -> Rounding:
    return Rounding(model, QuantizationSpec(precision=precision), language=language)


def settled(model: nn.Module, precision: str = "int8", *, language: bool = False) -> Any:
    copy = deepcopy(model)
    rounding(copy, precision, language=language).settle(copy)
    return copy


def texts() -> tuple[Task, Any, Encoded, nn.Module]:
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice([f"w{i}" for i in range(30)], rng.integers(3, 12))) for _ in range(24)]
    tokenizer = tiny_tokenizer(words)
    task = make_task(TextClassificationSpec(kind="text_classification", max_length=32), LABELS)
    rows = task.encode(Dataset.from_dict({"text": words, "label": [0] * len(words)}), tokenizer)
    return task, tokenizer, rows, larger(tiny_bert(tokenizer, LABELS))


def images(kind: str) -> tuple[Task, Any, Encoded, nn.Module]:
    task = make_task(ImageClassificationSpec(kind="image_classification", image_size=8), LABELS)
    labels = [i % 3 for i in range(24)]
    processor = tiny_image_processor()
    rows = task.encode(Dataset.from_dict({"image": tiny_images(labels), "label": labels}), processor)
    model = tiny_image_model(LABELS, kind, hidden=32)
    model.train()
    with torch.no_grad():
        for _ in range(20):  # statistics of these images
            model(**task.batch(rows, range(len(rows)), processor))
    return task, processor, rows, larger(model.eval())


def larger(model: Any) -> Any:
    """Weights of a trained model's size: those at birth are so small that nothing depends on them."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.copy_(torch.randn(p.shape, generator=random) * 1.5 / p[0].numel() ** 0.5)
    return model


def one_by_one(model: nn.Module, task: Task, rows: Encoded, processor: Any) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([model(**task.batch(rows, [i], processor)).logits for i in range(len(rows))])


@pytest.mark.parametrize("kind", ["text", "vit"])
def test_a_transformer_answers_as_its_dynamic_file(kind: str, tmp_path: Path) -> None:
    task, processor, rows, model = texts() if kind == "text" else images("vit")
    export_onnx(Trained(model, task, processor, rows), INT8, tmp_path)
    run = open_artifact("onnx", tmp_path, threads=1)
    answered = run.logits(single_rows(task, rows, processor))
    aware = rounding(model)
    assert aware.activations == "row"
    computed = aware.apply(model, lambda one: one_by_one(one, task, rows, processor))
    plain = one_by_one(model, task, rows, processor)
    assert abs(computed - answered).max() < 0.1 * abs(plain - answered).max()
    np.testing.assert_allclose(computed, answered, atol=0.01 * plain.std())


def test_a_convolutional_net_answers_nearly_as_its_static_file() -> None:
    """The file's ranges are those of calibration, a little off those of rounded activations: steps fall otherwise."""
    task, processor, rows, model = images("resnet")
    pixels = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    inputs = {"pixel_values": pixels.numpy()}
    small, _ = quantize(trace_rows(model, task, processor, rows, 20), [inputs])
    (answered,) = ort.InferenceSession(small.SerializeToString()).run(None, inputs)
    aware = rounding(model)
    assert aware.activations == "batch"
    with torch.no_grad():
        plain = model(pixel_values=pixels).logits.numpy()
        computed = aware.apply(model, lambda one: one(pixel_values=pixels).logits.numpy())
    assert root_mean_square(computed - answered) < 0.9 * root_mean_square(plain - answered)
    assert root_mean_square(computed - answered) < 0.02 * plain.std()


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def weights_of(graph: Graph) -> dict[str, np.ndarray]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}


def assert_same_file(one: Graph, other: Graph) -> None:
    """The same integers; scales may differ in their last digits."""
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        if values.dtype in (np.int8, np.uint8):
            assert np.array_equal(values, theirs[name]), name
        elif name.endswith(("_scale", "_scales")) and "weight" in name and "bias" not in name:
            np.testing.assert_allclose(values, theirs[name], rtol=1e-5)


@pytest.mark.parametrize("kind", ["text", "resnet"])
def test_a_settled_student_gives_the_same_integers(kind: str) -> None:
    task, processor, rows, model = texts() if kind == "text" else images(kind)
    calibration = [arrays(task.batch(rows, range(len(rows)), processor))]
    files = [quantize(trace_rows(m, task, processor, rows, 20), calibration)[0] for m in (model, settled(model))]
    if kind == "resnet":  # ranges of activations are found anew
        for file in files:
            for one in [one for one in file.graph.initializer if "weight" not in one.name or "bias" in one.name]:
                file.graph.initializer.remove(one)
    assert_same_file(*files)


@pytest.mark.parametrize(("precision", "kind"), [("int8", "gpt2"), ("int4", "llama")])
def test_a_language_model_answers_as_its_file_of_blocks(precision: str, kind: str, tmp_path: Path) -> None:
    tied = (
        {"tie_word_embeddings": True, "hidden_size": 48, "num_hidden_layers": 1} if kind == "llama" else {"n_layer": 1}
    )
    model = larger(tiny_causal(kind, **tied).float())
    small, _ = shrink(trace_decoder(model, 20), precision)
    again, _ = shrink(trace_decoder(settled(model, precision, language=True), 20), precision)
    assert_same_file(small, again)
    save_graph(small, tmp_path / "model.onnx", {})
    ids = np.random.default_rng(0).integers(3, VOCABULARY, (2, 12))
    answered, _ = DecoderRunner(tmp_path / "model.onnx")(ids, np.ones_like(ids))
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.ones(2, 12, dtype=torch.int64)}
    with torch.no_grad():
        plain = model(**inputs).logits.numpy()
        computed = rounding(model, precision, language=True).apply(model, lambda one: one(**inputs).logits.numpy())
    bound = 0.7 if precision == "int8" else 0.3  # in int8, what the runtime rounds of activations is as large
    assert root_mean_square(computed - answered) < bound * root_mean_square(plain - answered)
    assert root_mean_square(computed - answered) < 0.03 * plain.std()


@pytest.mark.parametrize("precision", ["q8_0", "q4_0"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_settled_language_model_is_its_gguf_file(precision: str, tied: bool, tmp_path: Path) -> None:
    model = gguf_files.tiny_llama(tied=tied)
    for name, one in (("latent", model), ("settled", settled(model, precision, language=True))):
        write_gguf(one, gguf_files.byte_tokenizer(), tmp_path / name, precision=precision, name="tiny")
    assert (tmp_path / "latent").read_bytes() == (tmp_path / "settled").read_bytes()
    read = gguf_files.logits(read_gguf(tmp_path / "latent")[0])
    with torch.no_grad():
        computed = rounding(model, precision, language=True).apply(model, gguf_files.logits)
    torch.testing.assert_close(computed, read, rtol=0, atol=1e-6)


def test_the_head_of_a_language_model_stays_lazy() -> None:
    """A projection made while numbers are rounded holds the rounded head, and its gradient is the head's."""
    model = tiny_causal("llama", tie_word_embeddings=False).float()
    inputs = {"input_ids": torch.randint(3, VOCABULARY, (2, 8)), "attention_mask": torch.ones(2, 8, dtype=torch.int64)}

    def lazy(one: nn.Module) -> Tensor:
        return project(one, body_states(one, inputs)[0].flatten(0, 1)).dense()

    logits = rounding(model, "int4", language=True).apply(model, lazy)
    torch.testing.assert_close(logits, lazy(settled(model, "int4", language=True)))
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    assert type(model.lm_head) is nn.Linear
    assert isinstance(model.lm_head.weight, nn.Parameter)


def test_a_model_without_matrices_is_refused() -> None:
    with pytest.raises(PlanError, match=r"training.quantization: Sequential has no matrix that int8 rounds"):
        rounding(nn.Sequential(nn.LayerNorm(4)))
