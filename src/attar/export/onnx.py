"""The ONNX exporter: graph, int8 if asked, and a folder that runs anywhere; handed over only if it passes parity.

export/onnx-PRECISION/model.onnx     the graph; labels and temperature also stand in its properties
                      config.json    the student's Transformers configuration
                      attar.json     labels, temperature, inputs, outputs, hash
                      …              the tokenizer's or image processor's own files
export/web-PRECISION/onnx/           likewise, with the graph where transformers.js looks for it: onnx/model.onnx (fp32)
                                     or onnx/model_quantized.onnx (int8)
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn
from transformers import PretrainedConfig

from attar.errors import ParityError
from attar.export.graph import Graph, save_graph, trace_graph
from attar.export.parity import check_parity
from attar.export.quantize import quantize
from attar.export.runtime import MODEL, OnnxRunner, arrays, batches, graph_in, single_rows
from attar.facts import ArtifactFacts
from attar.hashing import files_below, sha256
from attar.recipe.outcome import OnnxSpec, WebSpec
from attar.storage import atomic_folder, atomic_write
from attar.tasks.base import Encoded, Processor, Task

CARD = "attar.json"
_WEB = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
"""Names that transformers.js gives to the graph."""
OWN_FILES = {MODEL, CARD, "config.json", *_WEB.values()}
MAX_PARITY_ROWS = 1024
_PADDED_ROWS = 8
_CALIBRATION_BATCH = 8


@dataclass(frozen=True)
class Exported:
    """A file that passed parity. `facts` lack quality and latency, which are measured for all files at once."""

    folder: Path
    facts: ArtifactFacts
    logits: np.ndarray
    """float32 [N, C]: the file's own answers on the test rows, one row at a time."""


def export_onnx(
    model: nn.Module,
    task: Task,
    processor: Processor,
    out: Path,
    spec: OnnxSpec | WebSpec,
    *,
    calibration: Encoded,
    temperature: float,
    graph: Graph | None = None,
) -> Path:
    """Write the folder `out` without any check of its answers; arguments and errors as of `export_and_check`."""
    with atomic_folder(out) as folder:
        _write(model, task, processor, folder, spec, calibration, temperature, graph)
    return out


def export_and_check(
    model: nn.Module,
    task: Task,
    processor: Processor,
    out: Path,
    spec: OnnxSpec | WebSpec,
    *,
    calibration: Encoded,
    parity: Encoded,
    parity_logits: np.ndarray,
    test: Encoded,
    temperature: float,
    root: Path,
    threads: int = 1,
    graph: Graph | None = None,
) -> Exported:
    """Write the folder `out`, compare it with the checkpoint, and answer the test rows through onnxruntime.

    `model` stands on the CPU. The folder has a config.json where the model has a Transformers configuration, and the
    processor's files where it can save itself.
    `calibration`: training rows; `parity`: rows to compare on (validation; at most 1024 of them, evenly spread) with
    the checkpoint's logits [N, C] of them; `root`: the folder that `facts.path` is relative to; `graph`: from
    `trace_rows` with this opset, where several files are made of one model. Where a bound is missed the folder becomes
    `out`.refused with the reason inside, and ParityError is raised. Also raises ExportError, MissingExtra and
    StorageError.
    """
    refused = out.with_name(f"{out.name}.refused")
    shutil.rmtree(refused, ignore_errors=True)
    with atomic_folder(out) as folder:
        method = _write(model, task, processor, folder, spec, calibration, temperature, graph)
        rows = _spread(len(parity), MAX_PARITY_ROWS)
        padded, alone = rows[:_PADDED_ROWS], [[row] for row in rows[_PADDED_ROWS:]]
        answered = OnnxRunner(folder, threads).logits(batches(task, parity, [padded, *alone], processor))
        try:
            found = check_parity(parity_logits[rows], answered, task.problem, spec)
        except ParityError as error:
            shutil.rmtree(out, ignore_errors=True)
            folder.rename(refused)
            atomic_write(refused / "REFUSED.txt", f"{error}\n")
            raise
    runner = OnnxRunner(out, threads)
    sizes = {name: (out / name).stat().st_size for name in files_below(out)}
    facts = ArtifactFacts(
        kind=spec.kind,
        precision=spec.precision,
        path=out.relative_to(root).as_posix(),
        bytes=sum(size for name, size in sizes.items() if name in OWN_FILES),
        tokenizer_bytes=sum(size for name, size in sizes.items() if name not in OWN_FILES),
        sha256=sha256(graph_in(out)),
        files={name: sha256(out / name) for name in sizes},
        quality=None,
        quality_interval=None,
        retention=None,
        parity=found,
        latency_ms=None,
        latency=None,
        inputs=runner.inputs,
        outputs=runner.outputs,
        runtime=runner.runtime,
        note=f"{method}; one row at a time",
    )
    return Exported(out, facts, runner.logits(single_rows(task, test, processor)))


def trace_rows(model: nn.Module, task: Task, processor: Processor, encoded: Encoded, opset: int) -> Graph:
    """`trace_graph` on a batch of the longest and a median row."""
    order = np.argsort(encoded.lengths, kind="stable")
    return trace_graph(model, task.batch(encoded, [int(order[-1]), int(order[len(order) // 2])], processor), opset)


def _write(
    model: nn.Module,
    task: Task,
    processor: Processor,
    folder: Path,
    spec: OnnxSpec | WebSpec,
    calibration: Encoded,
    temperature: float,
    graph: Graph | None,
) -> str:
    """Fill `folder`; returns how the graph was made."""
    made = trace_rows(model, task, processor, calibration, spec.opset) if graph is None else graph
    method = "fp32"
    if spec.precision == "int8":
        rows = _spread(len(calibration), spec.calibration_rows)
        groups = [rows[i : i + _CALIBRATION_BATCH] for i in range(0, len(rows), _CALIBRATION_BATCH)]
        made, method = quantize(made, [arrays(batch) for batch in batches(task, calibration, groups, processor)])
    answers = {"labels": list(task.labels), "temperature": temperature, "problem": task.problem}
    name = _WEB[spec.precision] if isinstance(spec, WebSpec) else MODEL
    (folder / name).parent.mkdir(exist_ok=True)
    save_graph(made, folder / name, {f"attar.{key}": json.dumps(value) for key, value in answers.items()})
    runner = OnnxRunner(folder)
    card = {
        "format": 1,
        "kind": spec.kind,
        "precision": spec.precision,
        "task": task.spec.kind,
        **answers,
        "inputs": runner.inputs,
        "outputs": runner.outputs,
        "opset": spec.opset,
        "model": {"file": name, "sha256": sha256(folder / name)},
    }
    atomic_write(folder / CARD, json.dumps(card, indent=2) + "\n")
    config = getattr(model, "config", None)
    if isinstance(config, PretrainedConfig):
        config.save_pretrained(folder)
    if hasattr(processor, "save_pretrained"):
        processor.save_pretrained(folder)
    return method


def _spread(total: int, most: int) -> list[int]:
    """At most `most` of `total` row numbers, evenly spread."""
    return [int(row) for row in np.unique(np.linspace(0, total - 1, min(total, most)).round())]
