"""The folder of a GGUF export: one file for llama.cpp and all that is built on it, tokenizer and template inside.

It is read back by attar's own reader, which makes its blocks plain numbers again; llama.cpp computes with the same
weights, but rounds what flows between them in its own way.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from attar.errors import ExportError
from attar.export.gguf import left_in_f16, write_gguf
from attar.export.language import Opened
from attar.recipe.outcome import GGUFSpec
from attar.tasks.base import Processor
from attar.tasks.tokenizers import ready
from attar.teachers.gguf import read_gguf

MODEL = "model.gguf"


def fill_gguf(folder: Path, *, model: nn.Module, processor: Processor, spec: GGUFSpec, name: str) -> Opened:
    """Write the file into `folder` and read it back. `name`: what it calls the model.

    Raises ExportError, MissingExtra and StorageError.
    """
    if not isinstance(model, PreTrainedModel):
        raise ExportError(f"export gguf: {type(model).__name__} is no model of Transformers.")
    write_gguf(model, processor, folder / MODEL, precision=spec.precision, name=name)
    file, tokenizer = read_gguf(folder / MODEL)
    kept = left_in_f16(model, spec.precision)
    note = "latency: not measured, llama.cpp is not run here"
    return Opened(
        file=MODEL,
        model=file,
        processor=ready(tokenizer, MODEL, None),
        runtime="attar's reader of GGUF, weights as float32",
        note=f"{note}; in f16 for want of whole blocks: {', '.join(kept)}" if kept else note,
        inputs=["input_ids"],
        outputs=["logits"],
    )
