"""`layers: cka` of a run: which layers are compared is decided once, on rows of train, and is a record of its own.

The decision rests on the student as it starts out with the run's first seed, and holds for all seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from pydantic import BaseModel
from torch import Tensor, nn

from attar.facts import LayerMapFacts
from attar.objectives.own import OwnObjective
from attar.objectives.terms.layer_maps import choose_pairs
from attar.objectives.terms.part import Pair
from attar.objectives.terms.parts import pool_of
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import AnyObjectiveSpec, LayeredSpec
from attar.signals import HiddenKey, Pool, Wanted, look_inside
from attar.stages import Stages
from attar.students.student import Student
from attar.tasks.base import Processor, Task
from attar.teachers.local import LocalTeacher
from attar.teachers.manifest import wanted_of
from attar.teachers.scoring import score_rows
from attar.teachers.store import Store

Objectives = Sequence[AnyObjectiveSpec | OwnObjective]

PROBED = 256
"""Rows on which layers are compared: evenly spaced over train."""


class LayerMap(BaseModel):
    """Which layers were found alike."""

    pairs: tuple[Pair, ...]
    similarities: tuple[float, ...]
    """Linear CKA of each pair, 0..1."""
    rows: int


class LayerMaps(BaseModel):
    """What the stage `layers` found, by how states were pooled."""

    maps: dict[Pool, LayerMap] = {}

    @property
    def pairs(self) -> dict[Pool, tuple[Pair, ...]]:
        """For `Terms`."""
        return {pool: found.pairs for pool, found in self.maps.items()}


def pools_of(objectives: Objectives) -> list[Pool]:
    """How states are pooled for the objectives that want a map; empty: none does."""
    layered = [spec for spec in objectives if isinstance(spec, LayeredSpec)]
    return list(dict.fromkeys(pool_of(spec) for spec in layered if spec.layers == "cka"))


def choose_layers(
    objectives: Objectives,
    task: Task,
    train: Dataset,
    student: Student,
    teacher: LocalTeacher | Store,
    stages: Stages,
    *,
    shaped_by: object,
    device: str,
) -> LayerMaps:
    """The maps that the objectives ask for, as a stage.

    A store can only be asked for the layers that it offers with the same pooling.
    """
    some = np.unique(np.linspace(0, len(train) - 1, min(PROBED, len(train))).astype(np.int64))
    rows = train.select(some.tolist())

    def choose(pool: Pool) -> LayerMap | None:
        ours = _of_model(student.model.eval(), student.processor, task, rows, pool, device)
        if isinstance(teacher, Store):
            theirs = _of_store(teacher, task.content_keys(rows), pool)
        else:
            theirs = _of_model(teacher.model, teacher.processor, task, rows, pool, device)
        if not ours or not theirs:
            return None  # the objective itself tells what is lacking
        found = choose_pairs(ours, theirs)
        return LayerMap(pairs=found.pairs, similarities=found.similarities, rows=len(rows))

    def work() -> LayerMaps:
        maps: dict[Pool, LayerMap] = {}
        for pool in pools_of(objectives):
            if (found := choose(pool)) is not None:
                maps[pool] = found
        return LayerMaps(maps=maps)

    return stages.run("layers", shaped_by, [], LayerMaps, work)


def layer_facts(terms: Terms, objectives: Objectives, chosen: LayerMaps) -> dict[str, LayerMapFacts]:
    """For the record: what each term compares, and how its layers were matched."""
    facts: dict[str, LayerMapFacts] = {}
    for name, spec in zip(terms.names, objectives, strict=True):
        if not isinstance(spec, LayeredSpec):
            continue
        pairs = list(terms.layer_pairs[name])
        how = spec.layers if isinstance(spec.layers, str) else "given"
        found = chosen.maps.get(pool_of(spec)) if how == "cka" else None
        similarities = [] if found is None else list(found.similarities)
        facts[name] = LayerMapFacts(
            how=how, pairs=pairs, similarities=similarities, rows=None if found is None else found.rows
        )
    return facts


def _of_model(
    model: nn.Module, processor: Processor, task: Task, rows: Dataset, pool: Pool, device: str
) -> dict[int, Tensor]:
    """States of all layers but the embeddings, [N, D] each; empty where it shows none."""
    encoded = task.encode(rows, processor)
    layers = look_inside(model.to(device), _on(task.batch(encoded, [0], processor), device)).layers
    wanted = Wanted(logits=False, hidden=tuple(HiddenKey(layer, pool) for layer in range(1, layers + 1)))
    if not wanted.hidden:
        return {}
    found = score_rows(model, task, encoded, processor, wanted, device=device, split="train")
    return {key.layer: torch.from_numpy(found[name]) for name in found for key in wanted_of([name]).hidden}


def _of_store(store: Store, keys: Sequence[str], pool: Pool) -> dict[int, Tensor]:
    offered = wanted_of(store.manifest.offers).hidden
    wanted = Wanted(logits=False, hidden=tuple(key for key in offered if key.pool == pool and key.layer > 0))
    return {key.layer: value for key, value in store.read(store.rows(keys), wanted).hidden.items()}


def _on(inputs: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in inputs.items()}
