"""Rows for files of fixed shapes: one at a time, each text padded to one length."""

from __future__ import annotations

import torch
from torch import Tensor

from attar.errors import ExportError
from attar.export.exporter import Trained, batches, spread
from attar.export.runtimes.static import MASK, Shapes
from attar.recipe.outcome import ExecuTorchSpec, LiteRTSpec

Rows = list[dict[str, Tensor]]


def fixed_rows(student: Trained, spec: LiteRTSpec | ExecuTorchSpec, count: int) -> tuple[Shapes, Rows]:
    """The shapes of a file, and at most `count` training rows in them, evenly spread.

    Raises ExportError where texts have no attention mask, or a training row is longer than the file's texts.
    """
    shapes = _shapes(student, spec)
    alone = ([row] for row in spread(len(student.rows), count))
    rows: Rows = []
    for batch in batches(student.task, student.rows, alone, student.processor):
        (one,) = shapes.rows({name: value.numpy() for name, value in batch.items()})
        rows.append({name: torch.from_numpy(value) for name, value in one.items()})
    return shapes, rows


def _shapes(student: Trained, spec: LiteRTSpec | ExecuTorchSpec) -> Shapes:
    names = tuple(next(batches(student.task, student.rows, [[0]], student.processor)))
    if "input_ids" not in names:
        return Shapes(names)
    processor, longest = student.processor, int(student.rows.lengths.max())
    if MASK not in names:
        raise ExportError(
            f"{spec.kind}: every text is padded to one length, but {type(student.model).__name__} reads no "
            "attention_mask that would leave the padding out. Use `kind: onnx`."
        )
    length = min(student.task.spec.max_length, int(processor.model_max_length)) if spec.length is None else spec.length
    if longest > length:
        raise ExportError(
            f"{spec.kind}: `length: {length}`, but the longest training row has {longest} tokens. Set at least that, "
            "or a lower task.max_length, which cuts texts for the student too."
        )
    fill = {"input_ids": int(processor.pad_token_id), "token_type_ids": int(processor.pad_token_type_id)}
    return Shapes(names, length, fill, processor.padding_side == "left")
