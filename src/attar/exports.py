"""A seed's exports: each file is made, compared with the checkpoint and scored; a refused one ends no run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from torch import nn

from attar.errors import ExportError, ParityError
from attar.evaluation.evaluate import score_artifact
from attar.export.graph import Graph
from attar.export.onnx import export_and_check, trace_rows
from attar.facts import ArtifactFacts, RefusedFacts
from attar.ground import Ground
from attar.recipe.outcome import ExportSpec
from attar.stages import Stages
from attar.tasks.base import Encoded, Processor


@dataclass(eq=False)
class Exports:
    """The exports of one trained student. What they share is loaded and traced once, when the first one is due."""

    ground: Ground
    seed: int
    folder: Path
    temperature: float
    """Of the student's logits."""
    validation: np.ndarray
    """The checkpoint's logits [N, C] of the validation rows."""
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
        ground, (model, processor) = self.ground, self._student
        train, validation, test = self._encoded
        made = export_and_check(
            model, ground.task, processor, out, spec, calibration=train, parity=validation,
            parity_logits=self.validation, test=test, temperature=self.temperature, root=ground.out,
            graph=self._graph(spec.opset),
        )  # fmt: skip
        teacher = ground.teacher_logits(ground.splits.test)
        scores = score_artifact(ground.task, made.logits, teacher, test.labels, ground.recipe.report)
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

    @cache  # noqa: B019  (lives as long as a seed's exports)
    def _graph(self, opset: int) -> Graph:
        return trace_rows(self._student[0], self.ground.task, self._student[1], self._encoded[0], opset)
