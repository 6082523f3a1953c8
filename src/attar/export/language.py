"""The GGUF exporter: one file for llama.cpp and all that is built on it, handed over only if it passes parity.

export/gguf-PRECISION/model.gguf     weights, tokenizer and chat template
                      attar.json     what it is, and its hash

The file is read back by attar's own reader, which makes its blocks plain numbers again, and asked the same rows as the
checkpoint; llama.cpp computes with the same weights, but rounds what flows between them in its own way.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from attar.errors import ExportError, ParityError
from attar.export.gguf import left_in_f16, write_gguf
from attar.facts import ArtifactFacts, ParityFacts
from attar.hashing import sha256
from attar.recipe.outcome import GGUFSpec
from attar.storage import atomic_folder, atomic_write
from attar.tasks.base import Processor
from attar.tasks.tokenizers import ready
from attar.teachers.gguf import read_gguf

MODEL, CARD = "model.gguf", "attar.json"
MIN_AGREEMENT = {"f16": 0.99, "q8_0": 0.95, "q4_0": 0.75}
"""Default bound on the share of tokens for which file and checkpoint have the same likeliest one."""


Check = Callable[[PreTrainedModel, Processor], ParityFacts]
"""Compares the file, read back as a model and its tokenizer, with the checkpoint."""


class Written(NamedTuple):
    """A file that passed parity, and the same read back. `facts` lack quality."""

    facts: ArtifactFacts
    model: PreTrainedModel
    processor: Processor


def least_agreement(spec: GGUFSpec) -> float:
    """The share of tokens, 0..1, for which file and checkpoint must have the same likeliest one."""
    return MIN_AGREEMENT[spec.precision] if spec.min_agreement is None else spec.min_agreement


def export_gguf(
    model: nn.Module, processor: Processor, out: Path, spec: GGUFSpec, *, name: str, check: Check, root: Path
) -> Written:
    """Write the folder `out` and hold the file against the checkpoint by `check`.

    `root`: the folder that `facts.path` is relative to. Where the bound is missed the folder becomes `out`.refused with
    the reason inside, and ParityError is raised. Also raises ExportError, MissingExtra and StorageError.
    """
    if not isinstance(model, PreTrainedModel):
        raise ExportError(f"export gguf: {type(model).__name__} is no model of Transformers.")
    refused = out.with_name(f"{out.name}.refused")
    shutil.rmtree(refused, ignore_errors=True)
    with atomic_folder(out) as folder:
        write_gguf(model, processor, folder / MODEL, precision=spec.precision, name=name)
        digest = sha256(folder / MODEL)
        card = {"format": 1, "kind": spec.kind, "precision": spec.precision, "model": {"file": MODEL, "sha256": digest}}
        atomic_write(folder / CARD, json.dumps(card, indent=2) + "\n")
        file, tokenizer = read_gguf(folder / MODEL)
        own = ready(tokenizer, MODEL, None)
        found = check(file, own)
        if not found.agreement >= least_agreement(spec):
            reason = _reason(found, spec)
            shutil.rmtree(out, ignore_errors=True)
            folder.rename(refused)
            atomic_write(refused / "REFUSED.txt", f"{reason}\n")
            raise ParityError(reason)
    kept = left_in_f16(model, spec.precision)
    note = "latency: not measured, llama.cpp is not run here"
    facts = ArtifactFacts(
        kind=spec.kind,
        precision=spec.precision,
        path=out.relative_to(root).as_posix(),
        bytes=sum(path.stat().st_size for path in out.iterdir()),
        sha256=digest,
        quality=None,
        parity=found,
        latency_ms=None,
        inputs=["input_ids"],
        outputs=["logits"],
        runtime="attar's reader of GGUF, weights as float32",
        note=f"{note}; in f16 for want of whole blocks: {', '.join(kept)}" if kept else note,
    )
    return Written(facts, file, own)


def _reason(found: ParityFacts, spec: GGUFSpec) -> str:
    return (
        f"export gguf {spec.precision}: the file does not answer like the checkpoint: it has the same likeliest token "
        f"for {found.agreement:.4f} of {found.n} tokens, at least {least_agreement(spec):g} is asked (min_agreement). "
        "It is not handed over. Use a finer precision, or set a bound that you can live with."
    )
