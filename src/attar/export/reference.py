"""A teacher as one ONNX file in fp32: what its students are compared with where runtimes must be alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from attar.errors import ExportError
from attar.export.decoder import trace_decoder
from attar.export.decoding import DecoderRunner
from attar.export.graph import save_graph, trace_graph
from attar.export.runtimes.onnx import OnnxRunner
from attar.hashing import hash_value
from attar.identity import hash_module
from attar.storage import atomic_file
from attar.tasks.base import Encoded, Task
from attar.tasks.causal_lm import CausalLM
from attar.teachers.local import LocalTeacher
from attar.version import __version__

_OPSET = 20
_APART = 0.01
"""The largest difference of a logit between the teacher and its own file."""


def teacher_file(
    folder: Path,
    teacher: LocalTeacher,
    task: Task,
    encoded: Encoded,
    inputs: Mapping[str, np.ndarray],
    say: Callable[[str], None],
) -> tuple[Path, str]:
    """The file, made once below `folder`, and what holds it to the teacher.

    `encoded`: rows to trace it with; `inputs`: one row on which both must agree. Raises ExportError, MissingExtra.
    """
    model = cast("nn.Module", teacher.model.model).cpu().eval()
    key = hash_value([hash_module(model), _OPSET, __version__, torch.__version__])
    file = folder / f"teacher-{key}.onnx"
    if not file.is_file():
        say("exporting the teacher to ONNX, for the comparison alone")
        if isinstance(task, CausalLM):
            graph = trace_decoder(model, _OPSET)
        else:
            order = np.argsort(encoded.lengths, kind="stable")
            some = [int(order[-1]), int(order[len(order) // 2])]
            graph = trace_graph(model, task.batch(encoded, some, teacher.processor), _OPSET)
        with atomic_file(file) as partial:
            save_graph(graph, partial, {})
        for old in folder.glob("teacher-*.onnx"):
            if old != file:
                old.unlink()
    with torch.inference_mode():
        theirs = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()
    if isinstance(task, CausalLM):
        ours, _ = DecoderRunner(file)(inputs["input_ids"], inputs["attention_mask"])
    else:
        ours = OnnxRunner(file)(inputs)
    apart = float(np.abs(ours - theirs).max())
    if not apart <= _APART:
        raise ExportError(
            f"the teacher's ONNX file does not answer like the teacher: logits differ by {apart:.3g} on the timed row, "
            f"allowed are {_APART:g}."
        )
    return file, f"exported for the comparison alone; its logits on the timed row differ by {apart:.1g}"
