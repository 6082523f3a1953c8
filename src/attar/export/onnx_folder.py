"""The folder of a language model's ONNX export, as transformers.js and Optimum expect it.

config.json              the student's configuration; `transformers.js_config` says which file is there
generation_config.json   where it stops
tokenizer.json …         the tokenizer's own files, chat template included
onnx/model.onnx          one graph for prompt and answer (`attar.export.decoder`); named by precision:
                         model_fp16.onnx, model_quantized.onnx (int8), model_q4.onnx (int4)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from attar.errors import ExportError
from attar.export.decoder import PAST, trace_decoder
from attar.export.decoder_weights import shrink
from attar.export.decoding import DecoderModule, DecoderRunner
from attar.export.graph import Graph, save_graph
from attar.export.language import CARD, Opened
from attar.export.runtimes.onnx import MODEL
from attar.facts import ArtifactFacts
from attar.hashing import files_below
from attar.recipe.outcome import OnnxSpec
from attar.storage import atomic_write
from attar.tasks.base import Processor

FILES = {
    "fp32": "onnx/model.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_quantized.onnx",
    "int4": "onnx/model_q4.onnx",
}
_JS_NAMES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8", "int4": "q4"}
"""What transformers.js calls the precisions."""
_CONFIGS = ("config.json", "generation_config.json")


def fill_onnx(folder: Path, *, model: nn.Module, processor: Processor, spec: OnnxSpec, graph: Graph | None) -> Opened:
    """Write the folder and open its file. `graph`: from `trace_decoder` with this opset, where several files are made
    of one model; fp16 traces its own.

    Raises ExportError, MissingExtra and StorageError.
    """
    if not isinstance(model, PreTrainedModel):
        raise ExportError(f"export onnx: {type(model).__name__} is no model of Transformers.")
    match spec.precision:
        case "fp16":
            made, note = trace_decoder(model, spec.opset, half=True), "weights and cache in float16"
        case "fp32":
            made, note = graph or trace_decoder(model, spec.opset), "fp32"
        case "int8" | "int4":
            made, note = shrink(graph or trace_decoder(model, spec.opset), spec.precision)
    name = FILES[spec.precision]
    (folder / name).parent.mkdir()
    save_graph(made, folder / name, {"attar.precision": spec.precision})
    _configure(model, folder, spec)
    processor.save_pretrained(folder)
    runner = DecoderRunner(folder / name)
    own = {name, CARD, *_CONFIGS}
    return Opened(
        file=name,
        model=DecoderModule(runner, cast("Any", model).generation_config),
        processor=processor,
        runtime=runner.runtime,
        note=f"{note}; one text at a time; latency is that of a whole prompt",
        inputs=runner.inputs,
        outputs=runner.outputs,
        runner=runner,
        tokenizer=frozenset(files_below(folder)) - own,
    )


def model_file(artifact: ArtifactFacts) -> str:
    """Where an ONNX export's graph stands in its folder; one of a language model has a cache among its inputs."""
    return FILES[artifact.precision] if any(name.startswith(PAST) for name in artifact.inputs) else MODEL


def open_onnx(folder: Path, artifact: ArtifactFacts) -> DecoderModule:
    """A language model's export, read back. Raises ExportError, MissingExtra."""
    return DecoderModule(DecoderRunner(folder / model_file(artifact)), GenerationConfig.from_pretrained(folder))


def _configure(model: PreTrainedModel, folder: Path, spec: OnnxSpec) -> None:
    """Both configurations, with what transformers.js wants to know."""
    cast("Any", model).generation_config.save_pretrained(folder)
    told = cast("dict[str, Any]", json.loads(model.config.to_json_string(use_diff=True)))
    name = _JS_NAMES[spec.precision]
    cache = {"kv_cache_dtype": {name: "float16"}} if spec.precision == "fp16" else {}
    told["transformers.js_config"] = {"dtype": name, **cache}
    atomic_write(folder / _CONFIGS[0], json.dumps(told, indent=2) + "\n")
