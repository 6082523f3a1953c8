"""A classifier's file: made by the exporter of its kind, and handed over only if it answers like the checkpoint.

export/KIND-PRECISION/model…       what the exporter wrote (`attar.export.onnx`, `openvino`, `litert`, …)
                      config.json  the student's Transformers configuration
                      attar.json   labels, temperature, inputs, outputs, hash
                      …            the tokenizer's or image processor's own files
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
from transformers import PretrainedConfig

from attar.export.artifact import handed_over, record
from attar.export.coreml import export_coreml
from attar.export.executorch import export_executorch
from attar.export.exporter import Made, Trained, batches, single_rows, spread
from attar.export.litert import export_litert
from attar.export.onnx import export_onnx
from attar.export.openvino import export_openvino
from attar.export.parity import check_parity
from attar.export.runtimes import open_artifact
from attar.export.runtimes.base import CARD, Runner
from attar.facts import ArtifactFacts
from attar.hashing import files_below, sha256
from attar.recipe.outcome import (
    ClassifierSpec,
    CoreMLSpec,
    ExecuTorchSpec,
    LiteRTSpec,
    OnnxSpec,
    OpenVINOSpec,
    WebSpec,
)
from attar.storage import atomic_folder, atomic_write
from attar.tasks.base import Encoded

MAX_PARITY_ROWS = 1024
_PADDED_ROWS = 8
_CONFIG = "config.json"


@dataclass(frozen=True)
class Exported:
    """A file that passed parity. `facts` lack quality and latency, which are measured for all files at once."""

    folder: Path
    facts: ArtifactFacts
    logits: np.ndarray
    """float32 [N, C]: the file's own answers on the test rows, one row at a time."""


def export_and_check(
    student: Trained,
    out: Path,
    spec: ClassifierSpec,
    *,
    parity: Encoded,
    parity_logits: np.ndarray,
    test: Encoded,
    root: Path,
    threads: int = 1,
) -> Exported:
    """Write the folder `out`, compare it with the checkpoint, and answer the test rows through the file's runtime.

    The folder has a config.json where the model has a Transformers configuration, and the processor's files where it
    can save itself. `parity`: rows to compare on (validation; at most 1024 of them, evenly spread) with the
    checkpoint's logits [N, C] of them; `root`: the folder that `facts.path` is relative to. Where a bound is missed the
    folder becomes `out`.refused with the reason inside, and ParityError is raised. Also raises ExportError,
    MissingExtra and StorageError.
    """
    task, processor = student.task, student.processor
    with handed_over(out) as folder:
        made, _ = _fill(student, spec, folder)
        rows = spread(len(parity), MAX_PARITY_ROWS)
        padded, alone = rows[:_PADDED_ROWS], [[row] for row in rows[_PADDED_ROWS:]]
        answered = open_artifact(spec.kind, folder, threads).logits(batches(task, parity, [padded, *alone], processor))
        found = check_parity(parity_logits[rows], answered, task.problem, spec)
    runner = open_artifact(spec.kind, out, threads)
    own = {made.file, *made.besides, CARD, _CONFIG}
    facts = record(
        spec, out, root, file=made.file, beside=set(files_below(out)) - own, parity=found, inputs=runner.inputs,
        outputs=runner.outputs, runtime=runner.runtime, note=f"{made.note}; one row at a time",
    )  # fmt: skip
    return Exported(out, facts, runner.logits(single_rows(task, test, processor)))


def write_artifact(student: Trained, out: Path, spec: ClassifierSpec) -> Runner:
    """Write the folder `out` without any check of its answers, and open it; errors as of `export_and_check`."""
    with atomic_folder(out) as folder:
        _fill(student, spec, folder)
    return open_artifact(spec.kind, out)


def _fill(student: Trained, spec: ClassifierSpec, folder: Path) -> tuple[Made, Runner]:
    """The file and all that stands beside it, and the file opened."""
    made = _make(student, spec, folder)
    task, processor = student.task, student.processor
    card = {
        "format": 1,
        "kind": spec.kind,
        "precision": spec.precision,
        "task": task.spec.kind,
        "labels": list(task.labels),
        "temperature": student.temperature,
        "problem": task.problem,
        **made.card,
        "model": {"file": made.file, "sha256": sha256(folder / made.file)},
    }
    atomic_write(folder / CARD, json.dumps(card))
    runner = open_artifact(spec.kind, folder)
    card |= {"inputs": runner.inputs, "outputs": runner.outputs}
    atomic_write(folder / CARD, json.dumps(card, indent=2) + "\n")
    config = getattr(student.model, "config", None)
    if isinstance(config, PretrainedConfig):
        config.save_pretrained(folder)
    if hasattr(processor, "save_pretrained"):
        processor.save_pretrained(folder)
    return made, runner


def _make(student: Trained, spec: ClassifierSpec, folder: Path) -> Made:
    match spec:
        case OnnxSpec() | WebSpec():
            return export_onnx(student, spec, folder)
        case OpenVINOSpec():
            return export_openvino(student, spec, folder)
        case LiteRTSpec():
            return export_litert(student, spec, folder)
        case ExecuTorchSpec():
            return export_executorch(student, spec, folder)
        case CoreMLSpec():
            return export_coreml(student, spec, folder)
        case _:
            assert_never(spec)
