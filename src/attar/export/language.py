"""Exporting a language model: a folder with one file in it, handed over only if it passes parity.

export/KIND-PRECISION/…            the file and what belongs to it, by `attar.export.gguf_folder` or `onnx_folder`
                      attar.json   what it is, and its hash

A file is opened as it will be used and asked the same rows as the checkpoint; then both write on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from attar.errors import ParityError
from attar.export.artifact import handed_over, record
from attar.export.decoding import DecoderRunner
from attar.facts import ArtifactFacts, ParityFacts
from attar.hashing import sha256
from attar.recipe.outcome import GGUFSpec, OnnxSpec
from attar.storage import atomic_write
from attar.tasks.base import Processor

CARD = "attar.json"
Spec = GGUFSpec | OnnxSpec
MIN_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "f16": 0.99, "int8": 0.9, "q8_0": 0.95, "int4": 0.6, "q4_0": 0.75}
"""Default bound on the share of tokens for which file and checkpoint have the same likeliest one."""
MAX_ABS = {"fp32": 1e-2}
"""Default bound on the largest difference of a logit, for precisions that should change none: of 1,313 tokens of
SmolLM2-135M, 30 layers, one differs by 9.4e-4."""
MIN_WRITTEN = {"fp32": 0.9}
"""Default bound on the share of written tokens that are the checkpoint's: two equal models part at a near tie only, but
from there on all is different."""


class Opened(NamedTuple):
    """A file that was just written, opened as it will be used."""

    file: str
    """Its path in the folder."""
    model: nn.Module
    """Answers whole texts with `.logits`."""
    processor: Processor
    runtime: str
    note: str
    inputs: list[str]
    outputs: list[str]
    runner: DecoderRunner | None = None
    """Of a decoder with a cache."""
    tokenizer: frozenset[str] = frozenset()
    """Files of the folder that are the tokenizer's."""


Make = Callable[[Path], Opened]
"""Fills a folder."""
Check = Callable[[Opened], ParityFacts]
"""Compares the opened file with the checkpoint."""


class Written(NamedTuple):
    """A file that passed parity, opened. `facts` lack quality and latency."""

    facts: ArtifactFacts
    opened: Opened


class Bounds(NamedTuple):
    """What a file must keep to; None: no bound."""

    max_abs: float | None
    agreement: float
    written: float | None


def bounds(spec: Spec) -> Bounds:
    """The spec's own bounds, else those of its precision."""
    told = spec.max_abs if isinstance(spec, OnnxSpec) else None
    return Bounds(
        max_abs=MAX_ABS.get(spec.precision) if told is None else told,
        agreement=MIN_AGREEMENT[spec.precision] if spec.min_agreement is None else spec.min_agreement,
        written=MIN_WRITTEN.get(spec.precision) if spec.min_written is None else spec.min_written,
    )


def export_language(make: Make, out: Path, spec: Spec, *, check: Check, root: Path) -> Written:
    """Write the folder `out` by `make`, and hold its file against the checkpoint by `check`.

    `root`: the folder that `facts.path` is relative to. Where a bound is missed the folder becomes `out`.refused with
    the reason inside, and ParityError is raised. Also raises ExportError, MissingExtra and StorageError.
    """
    with handed_over(out) as folder:
        opened = make(folder)
        digest = sha256(folder / opened.file)
        card: dict[str, Any] = {"format": 1, "kind": spec.kind, "precision": spec.precision, "task": "causal_lm"}
        card |= {"inputs": opened.inputs, "outputs": opened.outputs, "model": {"file": opened.file, "sha256": digest}}
        atomic_write(folder / CARD, json.dumps(card, indent=2) + "\n")
        found = check(opened)
        if problems := missed(found):
            raise ParityError(
                f"export {spec.kind} {spec.precision}: the file does not answer like the checkpoint: "
                f"{'; '.join(problems)}. It is not handed over. Use a finer precision, or set a bound that you can "
                "live with."
            )
    facts = record(
        spec, out, root, file=opened.file, beside=opened.tokenizer, parity=found, inputs=opened.inputs,
        outputs=opened.outputs, runtime=opened.runtime, note=opened.note,
    )  # fmt: skip
    return Written(facts, opened)


def missed(found: ParityFacts) -> list[str]:
    """Each bound that is missed, in words; NaN misses all."""
    problems: list[str] = []
    ways = [("", found.max_abs, found.agreement, found.n)]
    if found.cached is not None:
        ways.append((" through the cache", found.cached.max_abs, found.cached.agreement, found.cached.n))
    for how, furthest, same, tokens in ways:
        if found.bound_max_abs is not None and not furthest <= found.bound_max_abs:
            problems.append(
                f"logits differ by up to {furthest:.3g}{how}, allowed are {found.bound_max_abs:g} (max_abs)"
            )
        if found.bound_agreement is not None and not same >= found.bound_agreement:
            problems.append(
                f"it has the same likeliest token for {same:.4f} of {tokens} tokens{how}, at least "
                f"{found.bound_agreement:g} is asked (min_agreement)"
            )
    told = found.written
    if told is not None and found.bound_written is not None and told.same < found.bound_written:
        problems.append(
            f"{told.same:.4f} of {told.tokens} written tokens are the checkpoint's, at least "
            f"{found.bound_written:g} is asked (min_written)"
        )
    return problems
