"""What all seeds of a run stand on: the data, the task, the teacher, and the teacher's signals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.data.load import Given
from attar.data.splits import Splits
from attar.facts import ModelFacts, SignalsFacts, SourceFacts
from attar.hashing import hash_value
from attar.known import Known
from attar.layer_choice import LayerMaps
from attar.objectives.own import OwnObjective
from attar.objectives.terms.terms import Terms
from attar.plan.objectives import signals_mode
from attar.recipe import Recipe
from attar.recipe.objectives import AnyObjectiveSpec, CrossTokenSpec
from attar.recipe.student import FromTeacherSpec
from attar.recipe.targets import TargetsSpec
from attar.signals import Inside, Wanted, look_inside
from attar.students.build import build_student
from attar.students.student import Student
from attar.tasks.base import Processor, Task
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences, renumbered, sequence_keys
from attar.tasks.vocabularies import knows_others
from attar.teachers.local import LocalTeacher
from attar.teachers.several import Routing
from attar.teachers.store import Store, StoreReader
from attar.teachers.token_store import TokenStore
from attar.training.token_bytes import token_maps
from attar.training.two_tokenizers import Paired, pair_rows

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
Objective = AnyObjectiveSpec | OwnObjective
_SAMPLED, _TOGETHER = 64, 8
"""Training rows by which a language model is cut, evenly spaced, and how many of them make a batch."""


@dataclass
class Handed:
    """What the Python door hands over instead of names."""

    rows: Given | None = None
    teacher: nn.Module | None = None
    student: nn.Module | None = None
    processor: Processor | None = None
    objectives: Sequence[Objective] | None = None


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
    inside: Inside = field(default_factory=Inside)
    """What the teacher shows of its inside."""
    chosen: LayerMaps = field(default_factory=LayerMaps)
    """Which layers `layers: cka` stands for."""
    store: Store | None = None
    targets: TargetsSpec | None = None
    """What is stored of each token a language model learns; None: nothing, or the teacher is asked in every step."""
    spot_check: float | None = None
    """The largest difference of what was stored elsewhere from what the teacher says here."""
    fitted: str | None = None
    """Hash of a fitted teacher's weights; None: it is as its source has it."""
    members_fitted: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    """The same of each of several teachers, by name."""
    members_quality: Mapping[str, float] = field(default_factory=dict[str, float])
    """Of several teachers each: the metric on its rows of validation, where that is known."""
    routing: Routing | None = None
    """Which of several teachers is asked about a row; None: there is one, or they are mixed."""
    warnings: list[str] = field(default_factory=list[str])
    truncated: int = 0
    """Rows that are longer than the limit, over all splits."""

    @property
    def signals_key(self) -> str:
        """Identity of the stored signals; of a language model's teacher that is asked in every step, its own."""
        if self.store is not None:
            return self.store.manifest.key
        return self.sources[0].hash if self.fitted is None else hash_value([self.sources[0].hash, self.fitted])

    @property
    def signals(self) -> SignalsFacts:
        """For the record. In live mode a store of classification holds what is said of validation and test alone."""
        mode = signals_mode(self.recipe)
        if self.store is None or mode == "live":
            return SignalsFacts(mode=mode, key=self.signals_key)
        held = self.store.manifest
        return SignalsFacts(
            mode=mode, key=held.key, rows=held.rows, bytes=held.bytes, tokens=held.tokens or None,
            bytes_per_token=held.bytes / held.tokens if held.tokens else None, spot_check=self.spot_check,
        )  # fmt: skip

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
        texts = task_texts(self.task, self.splits, self.processor)
        return build_student(
            self.recipe.student,
            self.task,
            teacher=None if self.teacher is None else self.teacher.core,
            processor=self.processor,
            texts=texts,
            batches=self._sample(),
            seed=seed,
            init="random" if init == "random" else "recipe",
        )

    def reads_otherwise(self, processor: Processor) -> bool:
        """Has a student of this processor another tokenizer than the teacher?"""
        return isinstance(self.task, CausalLM) and knows_others(processor, self.processor)

    def paired(self, student: Student) -> Paired | None:
        """The training rows as the student and the teacher read them, where two tokenizers meet; else None.

        The control reads the same sequences as the student, so this does not depend on who is trained.
        """
        across = any(isinstance(spec, CrossTokenSpec) for spec in self.objectives)
        if not isinstance(self.task, CausalLM) or not (across or self.reads_otherwise(student.processor)):
            return None
        return pair_rows(self.task, self.rows, student.processor, self.processor)

    def _sample(self) -> list[dict[str, Tensor]]:
        """Batches of training rows, as the teacher reads them: what a student cut from a language model is made by."""
        if not isinstance(self.task, CausalLM) or not isinstance(self.recipe.student, FromTeacherSpec):
            return []
        rows = self.splits.train
        some = np.unique(np.linspace(0, len(rows) - 1, min(_SAMPLED, len(rows))).astype(np.int64))
        encoded = self.task.encode(rows.select(some.tolist()), self.processor)
        cuts = np.array_split(np.arange(len(encoded)), max(len(encoded) // _TOGETHER, 1))
        return [self.task.batch(encoded, cut, self.processor) for cut in cuts]

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
        inside = look_inside(student.model.eval(), self.task.batch(one, [0], student.processor))
        matched = any(isinstance(spec, CrossTokenSpec) for spec in objectives)
        return Terms(
            objectives, problem=self.task.problem, student=inside, teacher=self.inside, chosen=self.chosen.pairs,
            tokens=token_maps(student.processor, self.processor) if matched else None, targets=self.targets, seed=seed,
        )  # fmt: skip

    def reader(self, rows: Dataset, wanted: Wanted | None = None) -> StoreReader:
        """The teacher's stored signals, by row number of `rows`."""
        assert self.store is not None, "signals are made before they are read"
        return self.store.reader(self.keys(rows), wanted)

    def keys(self, rows: Dataset) -> list[str]:
        """By which stored signals of rows are found."""
        keys = self.task.content_keys(rows)
        return keys if self.routing is None else self.routing.keys(keys, rows)

    def taught(self, encoded: Sequences, rows: Dataset, known: Known | None = None) -> Sequences:
        """Sequences of `rows`, as the student reads them, as the teacher is asked about them: the same tokens, by its
        numbers for them (`known`; None: they are the student's).
        """
        told = renumbered(encoded, known)
        return told if self.routing is None else self.routing.route(told, rows)

    def token_reader(self, told: Sequences) -> StoreReader:
        """What is stored of each learned token of sequences as the teacher is asked about them (see `taught`)."""
        assert isinstance(self.store, TokenStore), "signals are made before they are read"
        return self.store.token_reader(sequence_keys(told))

    def teacher_logits(self, rows: Dataset) -> np.ndarray:
        """The teacher's logits [N, C], from the store."""
        signals = self.reader(rows, Wanted(logits=True)).read(np.arange(len(rows)))
        assert signals.dense_logits is not None
        return signals.dense_logits.numpy()


def pool_rows(splits: Splits) -> Dataset:
    """Train and transfer rows, in this order."""
    return splits.train if splits.transfer is None else concatenate_datasets([splits.train, splits.transfer])


def task_texts(task: Task, splits: Splits, processor: Processor) -> list[str]:
    """All texts that a student may train on, as they are cut into tokens; empty for images."""
    rows = pool_rows(splits)
    if isinstance(task, CausalLM):
        return task.texts(rows, processor)
    names = [name for name in ("text", "text_pair") if name in rows.column_names]
    return [str(text) for name in names for text in rows[name]]
