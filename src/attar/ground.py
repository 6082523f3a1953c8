"""What all seeds of a run stand on: the data, the task, the teacher, and the teacher's signals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from pydantic import BaseModel
from safetensors.torch import load_model
from torch import nn
from transformers import PreTrainedModel

from attar.bench.size import count_params, weight_bytes
from attar.data.load import Given, load_data
from attar.data.splits import Splits
from attar.errors import PlanError
from attar.facts import ModelFacts, PolicyFacts, SourceFacts
from attar.hashing import hash_bytes, hash_file, hash_value
from attar.identity import hash_module, hash_processor
from attar.objectives.own import OwnObjective
from attar.objectives.terms import Terms
from attar.plan.objectives import signals_mode
from attar.recipe import Recipe
from attar.recipe.objectives import AnyObjectiveSpec, PythonSpec
from attar.recipe.student import PretrainedSpec
from attar.recipe.teacher import LocalTeacherSpec, StoredTeacherSpec
from attar.signals import Wanted, hidden_widths
from attar.stages import Stages
from attar.students.build import Student, build_student
from attar.tasks import make_task
from attar.tasks.base import Encoded, Processor, Task
from attar.teachers.fitted import FittedFacts, load_fitted
from attar.teachers.fitting import fit_teacher
from attar.teachers.labelling import label, store_folder
from attar.teachers.local import LocalTeacher, find_origin, load_local
from attar.teachers.origin import find_model, own_labels
from attar.teachers.preflight import preflight
from attar.teachers.store import MANIFEST, PROCESSOR, Store, StoreReader, open_store
from attar.teachers.stored import find_rescorer, open_stored, spot_check, stored_processor

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
Objective = AnyObjectiveSpec | OwnObjective


@dataclass
class Handed:
    """What the Python door hands over instead of names."""

    rows: Given | None = None
    teacher: nn.Module | None = None
    student: nn.Module | None = None
    processor: Processor | None = None
    objectives: Sequence[Objective] | None = None


class Labelled(BaseModel):
    """What the `signals` stage found besides the signals."""

    truncated: int
    """Rows that are longer than the limit, over all splits that were asked for."""


@dataclass
class Ground:
    """The common ground of all seeds."""

    recipe: Recipe
    out: Path
    device: str
    task: Task
    splits: Splits
    processor: Processor
    """The teacher's tokenizer or image processor."""
    teacher: LocalTeacher | None
    """None where only stored signals are there."""
    teacher_facts: ModelFacts
    sources: list[SourceFacts]
    handed: Handed
    objectives: Sequence[Objective]
    start: tuple[str, ...] = ()
    """What the student starts from, where the recipe does not tell: hashes of weights and processor that were given."""
    widths: dict[int, int] = field(default_factory=dict[int, int])
    """Width of each of the teacher's hidden states."""
    store: Store | None = None
    warnings: list[str] = field(default_factory=list[str])
    truncated: int = 0
    """Rows that are longer than the limit, over all splits."""

    @property
    def signals_key(self) -> str:
        """Identity of the stored signals."""
        assert self.store is not None, "signals are made before they are read"
        return self.store.manifest.key

    @property
    def rows(self) -> Dataset:
        """All rows to train on: train, then transfer."""
        return pool_rows(self.splits)

    @property
    def live(self) -> bool:
        """Whether the teacher is asked in every step."""
        return signals_mode(self.recipe) == "live"

    def student(self, seed: int, init: str = "recipe") -> Student:
        """A fresh student of this seed."""
        if self.handed.student is not None:
            return Student(deepcopy(self.handed.student), self.processor, {"init": "handed over"})
        texts = task_texts(self.recipe, self.splits)
        return build_student(
            self.recipe.student,
            self.task,
            teacher=None if self.teacher is None else self.teacher.model.model,
            processor=self.processor,
            texts=texts,
            seed=seed,
            init="random" if init == "random" else "recipe",
        )

    def load(self, folder: Path) -> tuple[nn.Module, Processor]:
        """A trained student or control from its folder, in eval mode on the CPU, with its processor."""
        if self.handed.student is None or isinstance(self.handed.student, PreTrainedModel):
            return self.task.load_model(folder), self.task.load_processor(folder)
        model = deepcopy(self.handed.student)
        load_model(model, folder / "model.safetensors")
        return model.eval(), self.processor

    def terms(self, student: Student, objectives: Sequence[Objective], seed: int) -> Terms:
        """The recipe's objectives between this student and the teacher."""
        one = self.task.encode(self.splits.validation.select([0]), student.processor)
        widths = hidden_widths(student.model.eval(), self.task.batch(one, [0], student.processor))
        return Terms(
            objectives,
            problem=self.task.problem,
            student_widths=widths,
            teacher_widths=self.widths,
            student_layers=max(widths, default=0),
            teacher_layers=max(self.widths, default=0),
            seed=seed,
        )

    def reader(self, rows: Dataset, wanted: Wanted | None = None) -> StoreReader:
        """The teacher's stored signals, by row number of `rows`."""
        assert self.store is not None, "signals are made before they are read"
        return self.store.reader(self.task.content_keys(rows), wanted)

    def teacher_logits(self, rows: Dataset) -> np.ndarray:
        """The teacher's logits [N, C], from the store."""
        signals = self.reader(rows, Wanted(logits=True)).read(np.arange(len(rows)))
        assert signals.logits is not None
        return signals.logits.numpy()


def prepare(
    recipe: Recipe, out: Path, stages: Stages, *, handed: Handed, policy: PolicyFacts, progress: Progress
) -> Ground:
    """Load the data, fit or load the teacher, and make sure that its signals are there.

    `policy` knows the licences of the teacher and of what the student starts from.
    """
    splits = stages.read("data", lambda: load_data(recipe, handed.rows), lambda found: found.hash)
    for note in splits.facts.notes:
        stages.say(f"data: {note}")
    task = make_task(recipe.task, splits.labels or _teacher_labels(recipe, handed))
    ground = _with_teacher(recipe, out, task, splits, stages, handed, progress)
    ground.sources[0] = ground.sources[0].model_copy(update={"licence": policy.licence})
    student = ground.student(recipe.training.seed)
    if handed.student is not None or isinstance(recipe.student, PretrainedSpec):
        ground.start = (hash_module(student.model), hash_processor(student.processor))
    ground.sources += [*splits.sources, *_student_source(ground, policy)]
    wanted = ground.terms(student, ground.objectives, recipe.training.seed).wanted_teacher
    wanted = Wanted(logits=True, hidden=wanted.hidden)
    match recipe.teacher:
        case StoredTeacherSpec() as spec:
            ground.store = stages.read(
                "signals", lambda: _opened(ground, spec, wanted), lambda store: store.manifest.key
            )
        case spec:
            ground.store = _label(ground, spec, wanted, stages, progress)
    _judge(ground, stages.say)
    return ground


def pool_rows(splits: Splits) -> Dataset:
    """Train and transfer rows, in this order."""
    return splits.train if splits.transfer is None else concatenate_datasets([splits.train, splits.transfer])


def task_texts(recipe: Recipe, splits: Splits) -> list[str]:
    """All texts that a student may train on; empty for images."""
    if recipe.task.kind == "image_classification":
        return []
    rows = pool_rows(splits)
    names = [name for name in ("text", "text_pair") if name in rows.column_names]
    return [str(text) for name in names for text in rows[name]]


def device_of(name: str) -> str:
    """The device that `training.device` means on this machine. Raises PlanError where it is absent."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if (name.startswith("cuda") and not torch.cuda.is_available()) or (
        name == "mps" and not torch.backends.mps.is_available()
    ):
        raise PlanError(f'training.device: "{name}" is not on this machine. Allowed here: auto, cpu.')
    return name


def _teacher_labels(recipe: Recipe, handed: Handed) -> tuple[str, ...]:
    """The label names that the teacher itself bears, for data without labels."""
    if handed.teacher is not None:
        named: dict[int, str] | None = getattr(getattr(handed.teacher, "config", None), "id2label", None)
        if named is None:
            raise PlanError("task.labels: absent, and neither the data nor the teacher names its labels. List them.")
        return tuple(named[i] for i in sorted(named))
    match recipe.teacher:
        case LocalTeacherSpec():
            if recipe.teacher.fit != "none":
                raise PlanError(
                    f"teacher.fit: {recipe.teacher.fit} needs labels, but the data has none. Use a teacher that has a "
                    "head (fit: none), or name the label column."
                )
            return own_labels(find_origin(recipe.teacher).folder)
        case StoredTeacherSpec():
            from attar.teachers.store import find_store, read_manifest

            return read_manifest(find_store(Path(recipe.teacher.path))).labels
        case _:
            assert_never(recipe.teacher)


def _with_teacher(
    recipe: Recipe, out: Path, task: Task, splits: Splits, stages: Stages, handed: Handed, progress: Progress
) -> Ground:
    device = device_of(recipe.training.device)
    data = SourceFacts(
        role="data",
        name=recipe.data.source,
        revision=recipe.data.revision,
        hash=splits.hash,
        licence=recipe.data.licence,
    )
    spec = recipe.teacher
    if isinstance(spec, StoredTeacherSpec):
        return _with_stored(recipe, spec, out, task, splits, handed, device, [data])
    teacher = _local_teacher(spec, out, task, splits, stages, handed, device, progress)
    facts = ModelFacts(
        name=teacher.source.name,
        family=teacher.family,
        params=count_params(teacher.model),
        bytes=weight_bytes(teacher.model),
    )
    return Ground(
        recipe, out, device, task, splits, teacher.processor, teacher, facts, [teacher.source, data], handed,
        _objectives(recipe, handed),
        widths=teacher.widths, warnings=list(teacher.warnings),
    )  # fmt: skip


def _local_teacher(
    spec: LocalTeacherSpec, out: Path, task: Task, splits: Splits, stages: Stages, handed: Handed, device: str,
    progress: Progress,
) -> LocalTeacher:  # fmt: skip
    if handed.teacher is not None:
        from attar.teachers.local import from_module

        return from_module(handed.teacher, handed.processor, task)
    if spec.fit == "none":
        return load_local(spec, task)
    folder = out / "store" / "teacher"
    origin = "config" if spec.model is None else find_origin(spec).source.hash
    fields = spec.model_dump(mode="json", include={"config", "fit", "fitting", "pooling", "batch_tokens"})
    rows = replace(splits, transfer=None, hash=_hash_rows(task, splits.train, splits.validation))
    shaped_by = [fields, origin, task.spec.model_dump(mode="json"), list(task.labels), rows.hash]
    stages.run(
        "teacher", shaped_by, [folder], FittedFacts,
        lambda: fit_teacher(spec, task, rows, folder, device=device, progress=progress),
    )  # fmt: skip
    return load_fitted(folder, task, trust_remote_code=spec.trust_remote_code)


def _hash_rows(task: Task, *parts: Dataset) -> str:
    """Content hash of rows and their labels, in order."""
    keys = [key.encode() for rows in parts for key in task.content_keys(rows)]
    return hash_bytes(*keys, *(np.asarray(rows["label"]).tobytes() for rows in parts))


def _with_stored(
    recipe: Recipe, spec: StoredTeacherSpec, out: Path, task: Task, splits: Splits, handed: Handed, device: str,
    sources: list[SourceFacts],
) -> Ground:  # fmt: skip
    store = open_stored(spec, task, Wanted(logits=True))
    about: dict[str, Any] = store.manifest.about
    teacher = find_rescorer(spec, store, task)
    processor = teacher.processor if teacher is not None else stored_processor(store, task)
    source = SourceFacts.model_validate(about["source"])
    return Ground(
        recipe, out, device, task, splits, processor, teacher, ModelFacts.model_validate(about["facts"]),
        [source, *sources], handed, _objectives(recipe, handed),
        widths={int(layer): width for layer, width in about["widths"].items()},
    )  # fmt: skip


def _label(ground: Ground, spec: LocalTeacherSpec, wanted: Wanted, stages: Stages, progress: Progress) -> Store:
    """Ask the teacher for everything that is read from disk later: all splits, or in live mode validation and test."""
    teacher, task, splits = ground.teacher, ground.task, ground.splits
    assert teacher is not None
    place = ground.out / "store"
    parts = {"validation": splits.validation, "test": splits.test}
    if ground.live:
        wanted = Wanted(logits=True)
    else:
        parts = {
            "train": splits.train,
            **({"transfer": splits.transfer} if splits.transfer is not None else {}),
            **parts,
        }
    facts = {
        "teacher": teacher.source.hash,
        "fitted": _hash_weights(teacher.folder) if spec.fit != "none" and teacher.folder else None,
        "processor": hash_processor(ground.processor),
        "task": task.spec.model_dump(mode="json", exclude={"metric", "slice_by"}),
        "label_map": spec.label_map,
        "dtype": "float32",
        "batch_tokens": spec.batch_tokens,
    }
    about = {
        "name": ground.sources[0].name,
        "licence": ground.sources[0].licence,
        "source": ground.sources[0].model_dump(mode="json"),
        "facts": ground.teacher_facts.model_dump(mode="json"),
        "widths": {str(layer): width for layer, width in ground.widths.items()},
        "folder": None if teacher.folder is None else str(teacher.folder.resolve()),
    }
    folder = store_folder(teacher, task, wanted, place, facts)

    def work() -> Labelled:
        encoded: dict[str, tuple[Encoded, list[str]]] = {
            name: (task.encode(rows, ground.processor), task.content_keys(rows)) for name, rows in parts.items()
        }
        stages.say(f"signals of {sum(len(e) for e, _ in encoded.values()):,} rows …")
        label(
            teacher, task, encoded, wanted, place, facts, about=about, batch_tokens=spec.batch_tokens,
            device=ground.device, progress=progress,
        )  # fmt: skip
        return Labelled(truncated=sum(rows.truncated for rows, _ in encoded.values()))

    shaped_by = [folder.name, splits.hash, sorted(parts)]
    outputs = [folder / MANIFEST, *([folder / PROCESSOR] if hasattr(ground.processor, "save_pretrained") else [])]
    ground.truncated = stages.run("signals", shaped_by, outputs, Labelled, work).truncated
    return open_store(folder)


def _student_source(ground: Ground, policy: PolicyFacts) -> list[SourceFacts]:
    """The model that the student starts from, where that is another than the teacher."""
    if ground.handed.student is not None:
        return [SourceFacts(role="student", name="python object", hash=ground.start[0])]
    spec = ground.recipe.student
    if not isinstance(spec, PretrainedSpec):
        return []
    found = find_model(spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code).source
    return [found.model_copy(update={"role": "student", "licence": policy.start.licence if policy.start else None})]


def _opened(ground: Ground, spec: StoredTeacherSpec, wanted: Wanted) -> Store:
    """A store that was made before, checked against the recipe and, where the teacher is there, against its answers."""
    store = open_stored(spec, ground.task, wanted)
    if ground.teacher is not None:
        spot_check(store, ground.teacher, ground.task, ground.splits.train, n=spec.spot_check)
    return store


def _objectives(recipe: Recipe, handed: Handed) -> Sequence[Objective]:
    """Those that were handed over, or else the recipe's; the plan has seen to it that none of these is a function."""
    return handed.objectives or [spec for spec in recipe.objectives if not isinstance(spec, PythonSpec)]


def _hash_weights(folder: Path) -> str:
    """Hash of a fitted teacher's weights alone: its record also holds how long the fitting took."""
    return hash_value([[p.relative_to(folder).as_posix(), hash_file(p)] for p in sorted(folder.rglob("*.safetensors"))])


def _judge(ground: Ground, say: Say) -> None:
    """Say loudly what is wrong with the teacher, before training."""
    encoded = ground.task.encode(ground.splits.validation, ground.processor)
    logits = ground.teacher_logits(ground.splits.validation)
    ground.warnings += preflight(logits, encoded, ground.processor, ground.task)
    for warning in ground.warnings:
        say(f"WARNING: {warning}")
