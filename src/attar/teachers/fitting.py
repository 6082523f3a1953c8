"""`fit: probe` and `fit: full`: a model becomes a teacher on the user's own training split."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attar.data.splits import Splits
from attar.errors import TeacherError
from attar.facts import SourceFacts
from attar.hashing import hash_value
from attar.recipe.teacher import LocalTeacherSpec
from attar.signals import Wanted
from attar.tasks import ImageClassification
from attar.tasks.base import Encoded, Processor, Task
from attar.teachers.finetune import finetune
from attar.teachers.fitted import (
    Features,
    FittedEncoder,
    FittedFacts,
    load_encoder,
    load_fitted,
    read_pooling,
    save_fitted,
    with_head,
)
from attar.teachers.labels import order_outputs
from attar.teachers.local import find_origin, load_parts
from attar.teachers.origin import check_code, own_labels, read_config
from attar.teachers.probe import Probe, fit_probe
from attar.teachers.quality import fit_temperature, has_label, quality
from attar.teachers.scoring import Progress, score_rows

__all__ = ["FittedFacts", "fit_teacher", "load_fitted"]


def fit_teacher(
    spec: LocalTeacherSpec,
    task: Task,
    splits: Splits,
    out: Path,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> FittedFacts:
    """Fit the recipe's teacher on the training split and write it to `out` (see `fitted` for the layout).

    The same recipe, data and seed give the same weights on one machine. Killed, `fit: full` goes on after its last
    finished epoch, which is kept beside `out`. Raises TeacherError, TrainingError or StorageError.
    """
    started = time.monotonic()
    with torch.random.fork_rng():
        torch.manual_seed(spec.fitting.seed)
        subject = _subject(spec, task, device)
        train = task.encode(splits.train, subject.processor)
        validation = task.encode(splits.validation, subject.processor)
        shaped_by = [
            spec.model_dump(mode="json", include={"config", "fit", "fitting", "pooling", "batch_tokens"}),
            task.spec.model_dump(mode="json"),
            [subject.source.hash, splits.hash, list(task.labels), torch.__version__],
        ]
        checkpoint = out.with_name(f"{out.name}.checkpoint")
        if spec.fit == "probe":
            found = _fit_probe(subject, train, validation, progress)
        else:
            found = _fit_full(subject, train, validation, checkpoint, hash_value(shaped_by), progress)
    encoder = subject.encoder
    facts = FittedFacts(
        fit="probe" if spec.fit == "probe" else "full",
        form="model" if encoder is None else "encoder",
        labels=task.labels,
        problem=task.problem,
        pooling=None if encoder is None else encoder.pooling,
        normalise=encoder is not None and encoder.normalise,
        metric=task.metric,
        train_rows=int(has_label(train.labels, task.problem).sum()),
        validation_rows=int(has_label(validation.labels, task.problem).sum()),
        seconds=time.monotonic() - started,
        seed=spec.fitting.seed,
        source=subject.source,
        **found,
    )
    save_fitted(subject.model.cpu(), subject.processor, facts, out)
    checkpoint.unlink(missing_ok=True)
    return facts


@dataclass
class _Subject:
    """The model that is being fitted."""

    model: nn.Module
    encoder: FittedEncoder | None
    """The same, where it is an encoder with a head of ours."""
    processor: Processor
    source: SourceFacts
    task: Task
    spec: LocalTeacherSpec
    device: str

    def ask(self, model: nn.Module, encoded: Encoded, split: str, progress: Progress | None = None) -> np.ndarray:
        """What `model` gives as logits, for all rows, in eval mode."""
        done = 0

        def tell(rows: int) -> None:
            nonlocal done
            done += rows
            if progress is not None:
                progress(f"features of {split}", done, len(encoded))

        budget = self.spec.batch_tokens
        model.eval()
        return score_rows(
            model,
            self.task,
            encoded,
            self.processor,
            Wanted(),
            batch_tokens=budget,
            device=self.device,
            split=split,
            progress=tell,
        )["logits"]


def _subject(spec: LocalTeacherSpec, task: Task, device: str) -> _Subject:
    """Load or build what is to be fitted."""
    if spec.config is not None:
        model, processor = _built(spec.config, task)
        source = SourceFacts(role="teacher", name="config", hash=hash_value(spec.config), licence=spec.licence)
        return _Subject(model.to(device), None, processor, source, task, spec, device)
    origin = find_origin(spec)
    folder, remote = origin.folder, spec.trust_remote_code
    check_code(read_config(folder), origin.source.name, trust_remote_code=remote)
    processor = load_parts(origin.source.name, lambda: task.load_processor(folder, trust_remote_code=remote))
    if spec.fit == "full" and _answers(folder, task):
        model = load_parts(origin.source.name, lambda: task.load_model(folder, trust_remote_code=remote))
        return _Subject(model.to(device), None, processor, origin.source, task, spec, device)
    pooling, normalise = read_pooling(folder, spec.pooling)
    body = load_parts(origin.source.name, lambda: load_encoder(folder, pooling, trust_remote_code=remote))
    # An encoder that is trained finds its own length; a probe takes the vectors as the model's authors meant them.
    encoder = with_head(body, processor, task, pooling, normalise=normalise and spec.fit == "probe")
    return _Subject(encoder.to(device), encoder, processor, origin.source, task, spec, device)


def _answers(folder: Path, task: Task) -> bool:
    """Whether a model has a head for the task's labels already, so that fitting goes on from it."""
    own = own_labels(folder)
    return sorted(own) == sorted(task.labels) and order_outputs(own, task.labels).outputs is None


def _built(config: dict[str, Any], task: Task) -> tuple[nn.Module, Processor]:
    """An untrained model from `teacher.config`."""
    if not isinstance(task, ImageClassification):
        raise TeacherError(
            "teacher.config: a text teacher built from a configuration has no tokenizer. Name a model in "
            "`teacher.model`."
        )
    return task.build_model(config), task.new_processor()


def _fit_probe(subject: _Subject, train: Encoded, validation: Encoded, progress: Progress | None) -> dict[str, Any]:
    probe = _probe_head(subject, train, validation, progress)
    return {
        "temperature": probe.temperature,
        "temperature_folded": True,
        "strength": probe.strength,
        "validation": probe.validation,
    }


def _fit_full(
    subject: _Subject, train: Encoded, validation: Encoded, checkpoint: Path, key: str, progress: Progress | None
) -> dict[str, Any]:
    task, fitting, encoder = subject.task, subject.spec.fitting, subject.encoder

    def prepare() -> None:
        if encoder is not None and fitting.probe_first and task.problem == "single_label":
            probe = _probe_head(subject, train, validation, progress)
            with torch.no_grad():  # calibrated is too sure of itself to learn from: start as the regression left it
                encoder.head.weight.mul_(probe.temperature)
                encoder.head.bias.mul_(probe.temperature)

    def evaluate() -> float | None:
        logits = subject.ask(subject.model, validation, "validation")
        return quality(task.metric, logits, validation.labels, task.problem)

    curve = finetune(
        subject.model,
        None if encoder is None else encoder.head,
        task,
        train,
        subject.processor,
        fitting,
        checkpoint=checkpoint,
        key=key,
        prepare=prepare,
        evaluate=evaluate,
        device=subject.device,
        progress=progress,
    )
    logits = subject.ask(subject.model, validation, "validation")
    return {
        "temperature": fit_temperature(logits, validation.labels, task.problem),
        "validation": quality(task.metric, logits, validation.labels, task.problem),
        "curve": tuple(curve),
    }


def _probe_head(subject: _Subject, train: Encoded, validation: Encoded, progress: Progress | None) -> Probe:
    """Fit a probe on the encoder's features and make it the head."""
    assert subject.encoder is not None
    features = Features(subject.encoder)
    probe = fit_probe(
        (subject.ask(features, train, "train", progress), train.labels),
        (subject.ask(features, validation, "validation", progress), validation.labels),
        classes=len(subject.task.labels),
        problem=subject.task.problem,
        metric=subject.task.metric,
    )
    head = subject.encoder.head
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(probe.weight))
        head.bias.copy_(torch.from_numpy(probe.bias))
    return probe
