"""`kind: ensemble`: several teachers as one, and which of them is asked about a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset

from attar.errors import DataError, TeacherError
from attar.facts import SourceFacts
from attar.hashing import hash_value
from attar.identity import hash_processor
from attar.recipe.nearest import listed
from attar.recipe.teacher import EnsembleSpec
from attar.signals import NOTHING
from attar.tasks.base import Encoded, Processor, Task
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences, routed_keys
from attar.teachers.ensemble import Ensemble
from attar.teachers.local import LocalTeacher

_SHOWN = 8
_PROBED = 64
AnyEncoded = TypeVar("AnyEncoded", bound=Encoded)


@dataclass(frozen=True)
class Routing:
    """Which teacher is asked about a row, by the row's slice."""

    by: str
    """The column of the data, for messages."""
    to: Mapping[str, int]
    """The column's value -> the teacher's number."""
    otherwise: int | None

    def of(self, rows: Dataset) -> np.ndarray:
        """The teacher's number of each row, int64 [N]. Raises DataError that names a row without one."""
        values: list[str] = list(rows["slice"])
        numbers = [self.to.get(value, self.otherwise) for value in values]
        lost = [row for row, number in enumerate(numbers) if number is None]
        if lost:
            told = listed(sorted({f'"{values[row]}"' for row in lost}), _SHOWN)
            raise DataError(
                f'row {lost[0]}: no teacher is named for what stands in column "{self.by}" ({told}; {len(lost):,} of '
                f"{len(values):,} rows). Name one in teacher.route.to, or teacher.route.otherwise for all other values."
            )
        return np.array(numbers, dtype=np.int64)

    def keys(self, keys: list[str], rows: Dataset) -> list[str]:
        """Content keys of rows with the teacher that is asked."""
        return routed_keys(keys, self.of(rows))

    def route(self, encoded: AnyEncoded, rows: Dataset) -> AnyEncoded:
        """Rows as the teachers read them, each with the number of the one that is asked."""
        numbers = self.of(rows)
        return replace(encoded, route=numbers[encoded.owners] if isinstance(encoded, Sequences) else numbers)


def routing_of(spec: EnsembleSpec) -> Routing | None:
    """How rows are routed; None where the teachers are mixed."""
    if spec.route is None:
        return None
    number = {name: place for place, name in enumerate(spec.members)}
    other = spec.route.otherwise
    to = {value: number[name] for value, name in spec.route.to.items()}
    return Routing(spec.route.by, to, None if other is None else number[other])


def join_teachers(
    members: Mapping[str, LocalTeacher], fitted: Mapping[str, str | None], spec: EnsembleSpec, task: Task
) -> LocalTeacher:
    """Several teachers as one. `fitted`: hashes of the weights of those that were fitted.

    It shows of its inside what all members show alike, and nothing where they are mixed. Its processor is the first
    member's. Raises TeacherError where two language models have not the same tokens.
    """
    first = next(iter(members.values()))
    language = isinstance(task, CausalLM)
    if language:
        for name, one in members.items():
            _require_same_tokens(next(iter(members)), first.processor, name, one.processor)
    alike = all(one.inside == first.inside for one in members.values())
    identity: list[Any] = [
        [name, one.source.hash, fitted[name], hash_processor(one.processor), spec.members[name].label_map]
        for name, one in members.items()
    ]
    how = [spec.combine, list(spec.weights), None if spec.route is None else spec.route.model_dump(mode="json")]
    model = Ensemble(
        [one.core if language else one.model for one in members.values()],
        weights=spec.weights, combine=spec.combine, problem=task.problem, routed=spec.route is not None,
    )  # fmt: skip
    return LocalTeacher(
        model=model,
        processor=first.processor,
        family=" + ".join(dict.fromkeys(one.family for one in members.values())),
        inside=first.inside if alike and spec.route is not None else NOTHING,
        labels=task.labels,
        source=SourceFacts(role="teacher", name=" + ".join(members), hash=hash_value([identity, how])),
        warnings=[f"{name}: {warning}" for name, one in members.items() for warning in one.warnings],
        members=dict(members),
    )


def reads_alike(task: Task, rows: Dataset, one: Processor, other: Processor) -> bool:
    """Whether two processors make the same inputs of some rows, evenly spaced."""
    some = np.unique(np.linspace(0, len(rows) - 1, min(_PROBED, len(rows))).astype(np.int64))
    mine, theirs = (task.encode(rows.select(some.tolist()), processor) for processor in (one, other))
    if mine.inputs.keys() != theirs.inputs.keys():
        return False
    batches = [task.batch(side, range(len(side)), processor) for side, processor in ((mine, one), (theirs, other))]
    return all(
        value.shape == batches[1][name].shape and bool((value == batches[1][name]).all())
        for name, value in batches[0].items()
    )


def _require_same_tokens(first: str, ours: Processor, name: str, theirs: Processor) -> None:
    mine: dict[str, int] = ours.get_vocab()
    other: dict[str, int] = theirs.get_vocab()
    if mine == other:
        return
    token = min(t for t in {*mine, *other} if mine.get(t) != other.get(t))
    raise TeacherError(
        f'teacher.members.{name}: its tokenizer is not that of "{first}": "{token}" has id {other.get(token)} here and '
        f"{mine.get(token)} there. What they say of a token can be joined only where both have the same tokens: use "
        "models with one tokenizer, or distil from one of them (teacher.kind: local), between tokenizers if need be."
    )
