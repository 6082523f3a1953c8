"""A seed's exports: each file is made, compared with the checkpoint and scored; a refused one ends no run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from attar.errors import ExportError, ParityError
from attar.evaluation.evaluate import score_artifact
from attar.evaluation.exact_match import score_written
from attar.evaluation.generate import write_greedily
from attar.evaluation.language import agreement, divergence, score_file
from attar.evaluation.tokens import COLUMN, TEACHER, Reader, ask_about_rows
from attar.evaluation.written import write_answers
from attar.export.classifier import export_and_check
from attar.export.decoder import trace_decoder
from attar.export.exporter import Trained
from attar.export.gguf_folder import fill_gguf
from attar.export.graph import Graph
from attar.export.language import Bounds, Opened, bounds, export_language
from attar.export.onnx_folder import fill_onnx
from attar.export.writing import LONGEST, compare_steps, compare_written, prompts_of
from attar.facts import ArtifactFacts, ParityFacts, RefusedFacts
from attar.ground import Ground
from attar.recipe.outcome import ExportSpec, GGUFSpec, OnnxSpec
from attar.stages import Stages
from attar.tasks.base import Encoded, Processor
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences

_TOGETHER = 8192
"""Tokens a batch."""


@dataclass(eq=False)
class Exports:
    """The exports of one trained student. What they share is loaded and traced once, when the first one is due."""

    ground: Ground
    seed: int
    folder: Path
    temperature: float
    """Of the student's logits."""
    validation: np.ndarray
    """What the checkpoint says of the validation rows, as the run's judge keeps it."""
    teacher: np.ndarray
    """What the teacher says of the test rows, likewise."""
    written: np.ndarray | None
    """What the teacher wrote to the test rows, where that counts."""
    stages: Stages

    def make(self, spec: ExportSpec) -> ArtifactFacts | RefusedFacts:
        """One file as a stage. One that cannot be handed over ends no run: the refusal is part of the record."""
        out = self.folder / "export" / f"{spec.kind}-{spec.precision}"
        name, trained = f"{self.seed}/{spec.kind}-{spec.precision}", self.stages.key_of(f"{self.seed}/student")
        key = [spec.model_dump(mode="json"), trained, self.temperature, self.ground.splits.hash]
        try:
            return self.stages.run(name, key, [out], ArtifactFacts, lambda: self._make(spec, out))
        except ExportError as error:
            self.stages.say(f"WARNING: {error}")
            failed = "parity" if isinstance(error, ParityError) else "export"
            return RefusedFacts(
                kind=spec.kind, precision=spec.precision, seed=self.seed, failed=failed, reason=str(error)
            )

    def _make(self, spec: ExportSpec, out: Path) -> ArtifactFacts:
        ground = self.ground
        if isinstance(ground.task, CausalLM):
            assert isinstance(spec, GGUFSpec | OnnxSpec), "the plan refuses the others for language models"
            return self._make_language(spec, out)
        assert not isinstance(spec, GGUFSpec), "the plan refuses it for classifiers"
        _, validation, test = self._encoded
        made = export_and_check(
            self._trained, out, spec, parity=validation, parity_logits=self.validation, test=test, root=ground.out
        )
        scores = score_artifact(ground.task, made.logits, self.teacher, test.labels, ground.recipe.report)
        return made.facts.model_copy(update=scores._asdict())

    def _make_language(self, spec: GGUFSpec | OnnxSpec, out: Path) -> ArtifactFacts:
        ground, task, (model, processor) = self.ground, cast("CausalLM", self.ground.task), self._student
        _, validation, test = cast("tuple[Sequences, Sequences, Sequences]", self._encoded)

        def check(opened: Opened) -> ParityFacts:
            ours, theirs = _reader(opened, validation), Reader(model, validation, processor)
            found = _parity(ours, theirs, task, len(ground.splits.validation), bounds(spec))
            prompts = prompts_of(validation)
            wanted = write_greedily(model, processor, prompts, longest=LONGEST)
            written = compare_written(write_greedily(opened.model, opened.processor, prompts, longest=LONGEST), wanted)
            runner = opened.runner
            cached = None if runner is None else compare_steps(runner, model, validation)
            return found.model_copy(update={"written": written, "cached": cached})

        def make(folder: Path) -> Opened:
            if isinstance(spec, GGUFSpec):
                return fill_gguf(folder, model=model, processor=processor, spec=spec, name=ground.recipe.name)
            graph = None if spec.precision == "fp16" else self._graph(spec.opset)
            return fill_onnx(folder, model=model, processor=processor, spec=spec, graph=graph)

        made = export_language(make, out, spec, check=check, root=ground.out)
        report, rows, opened = ground.recipe.report, ground.splits.test, made.opened
        if self.written is not None:
            written = write_answers(opened.model, opened.processor, task, rows, device=ground.device)
            scores = score_written(rows, written, self.written, report)
        else:
            read = _reader(opened, test)
            answers = ask_about_rows({}, read, task, len(rows), batch_tokens=_budget(read))[TEACHER]
            scores = score_file(answers, self.teacher, report)
        return made.facts.model_copy(update=scores._asdict())

    @cached_property
    def _student(self) -> tuple[nn.Module, Processor]:
        return self.ground.load(self.folder / "student")

    @cached_property
    def _encoded(self) -> tuple[Encoded, Encoded, Encoded]:
        splits, processor = self.ground.splits, self._student[1]
        train, validation, test = (
            self.ground.task.encode(rows, processor) for rows in (splits.train, splits.validation, splits.test)
        )
        return train, validation, test

    @cached_property
    def _trained(self) -> Trained:
        model, processor = self._student
        return Trained(model, self.ground.task, processor, self._encoded[0], self.temperature)

    @cache  # noqa: B019  (lives as long as a seed's exports)
    def _graph(self, opset: int) -> Graph:
        return trace_decoder(self._student[0], opset)


def _reader(opened: Opened, encoded: Sequences) -> Reader:
    """The opened file, and rows as it reads them."""
    return Reader(opened.model, encoded, opened.processor, dense=opened.runner is not None)


def _budget(read: Reader) -> int:
    """Tokens a batch: an ONNX file is asked one text at a time, as it is used (dynamic int8 scales a whole batch)."""
    return 1 if read.dense else _TOGETHER


def _parity(file: Reader, checkpoint: Reader, task: CausalLM, rows: int, bound: Bounds) -> ParityFacts:
    """A language model's file against its checkpoint, token by token; the logits themselves on the first sequence."""
    table = ask_about_rows({"file": file}, checkpoint, task, rows, batch_tokens=_budget(file))["file"]
    inputs = task.batch(file.encoded, [0], file.processor)
    with torch.inference_mode():
        one, other = (cast("torch.Tensor", side.model(**inputs).logits) for side in (file, checkpoint))
    return ParityFacts(
        max_abs=float((one - other).abs().max()), agreement=agreement(table), kl=divergence(table),
        n=int(table[:, COLUMN.compared].sum()), bound_max_abs=bound.max_abs, bound_agreement=bound.agreement,
        bound_written=bound.written,
    )  # fmt: skip
