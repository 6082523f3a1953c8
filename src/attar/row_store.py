"""Stored signals of classifiers and regressions: every row labelled once, by one teacher or by several.

Several teachers have a store each, of what each says by its own tokenizer or image processor; these are joined into
the one that is trained on. So another weight, or one teacher more, labels nothing anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from pydantic import BaseModel

from attar.evaluation.metrics import score
from attar.ground import Ground, Progress
from attar.identity import hash_processor
from attar.mixture import combined
from attar.recipe.teacher import EnsembleSpec, LocalTeacherSpec
from attar.signals import Wanted
from attar.stages import Stages
from attar.tasks.base import Encoded, Task
from attar.teachers.labelling import Piece, Tell, fill, label, row_manifest, store_folder
from attar.teachers.local import LocalTeacher
from attar.teachers.manifest import MANIFEST, PROCESSOR
from attar.teachers.scoring import named
from attar.teachers.shards import ShardFacts, write_shard
from attar.teachers.store import Store, open_store

Parts = dict[str, Dataset]
"""Rows by split."""


class Labelled(BaseModel):
    """What the `signals` stage found besides the signals."""

    truncated: int
    """Rows that are longer than the limit, over all splits that were asked for."""
    members: dict[str, float] = {}
    """Of several teachers each: the metric on its rows of validation, where these have labels."""


def label_rows(
    ground: Ground, spec: LocalTeacherSpec | EnsembleSpec, wanted: Wanted, about: dict[str, Any], stages: Stages,
    progress: Progress,
) -> Store:  # fmt: skip
    """Ask the teacher for everything that is read from disk later: all splits, or in live mode validation and test."""
    teacher, task, splits = ground.teacher, ground.task, ground.splits
    assert teacher is not None, "a teacher that is asked is a model"
    place = ground.out / "store"
    parts: Parts = {"validation": splits.validation, "test": splits.test}
    if ground.live:
        wanted = Wanted(logits=True)
    else:
        transfer = {} if splits.transfer is None else {"transfer": splits.transfer}
        parts = {"train": splits.train, **transfer, **parts}
    label_map = None if isinstance(spec, EnsembleSpec) else spec.label_map
    facts = {**_facts(task, teacher, ground.fitted, label_map, spec.batch_tokens), **told_of_several(ground)}
    folder = store_folder(teacher, task, wanted, place, facts)

    def work() -> Labelled:
        encoded = {name: (task.encode(rows, ground.processor), ground.keys(rows)) for name, rows in parts.items()}
        stages.say(f"signals of {sum(len(e) for e, _ in encoded.values()):,} rows …")
        members: dict[str, float] = {}
        if isinstance(spec, EnsembleSpec):
            stores = [
                _label_member(ground, spec, number, _own_rows(ground, number, parts), wanted, progress)
                for number in range(len(spec.members))
            ]
            members = _members_alone(ground, stores)
            _join(ground, spec, stores, parts, encoded, teacher.resolve(wanted), place, facts, about)
        else:
            label(
                teacher, task, encoded, wanted, place, facts, about=about, batch_tokens=spec.batch_tokens,
                device=ground.device, progress=progress,
            )  # fmt: skip
        return Labelled(truncated=sum(rows.truncated for rows, _ in encoded.values()), members=members)

    shaped_by = [folder.name, splits.hash, sorted(parts)]
    outputs = [folder / MANIFEST, *([folder / PROCESSOR] if hasattr(ground.processor, "save_pretrained") else [])]
    found = stages.run("signals", shaped_by, outputs, Labelled, work)
    ground.truncated, ground.members_quality = found.truncated, found.members
    return open_store(folder)


def _members_alone(ground: Ground, stores: list[Store]) -> dict[str, float]:
    """What each of several teachers is worth on validation, by its name; empty where there are no labels."""
    assert ground.teacher is not None, "teachers that are asked are models"
    task, found = ground.task, dict[str, float]()
    for number, (name, store) in enumerate(zip(ground.teacher.members, stores, strict=True)):
        rows = _own_rows(ground, number, {"validation": ground.splits.validation})["validation"]
        if ground.splits.labelled and len(rows):
            said = named(store.read(store.rows(task.content_keys(rows)), Wanted(logits=True)))["logits"].numpy()
            found[name] = score(task.metric, said, task.encode(rows, ground.processor).labels, task.problem)
    return found


def told_of_several(ground: Ground) -> dict[str, Any]:
    """For a store's facts: names of several teachers, and by which column rows are routed; empty where there is one."""
    if ground.teacher is None or not ground.teacher.members:
        return {}
    route = None if ground.routing is None else ground.routing.by
    return {"teachers": {"members": list(ground.teacher.members), "route": route}}


def _facts(
    task: Task, teacher: LocalTeacher, fitted: str | None, label_map: dict[str, str] | None, batch_tokens: int
) -> dict[str, Any]:
    """All that shapes a teacher's signals, besides rows and which signals."""
    return {
        "teacher": teacher.source.hash,
        "fitted": fitted,
        "processor": hash_processor(teacher.processor),
        "task": task.spec.model_dump(mode="json", exclude={"metric", "slice_by"}),
        "label_map": label_map,
        "dtype": "float32",
        "batch_tokens": batch_tokens,
    }


def _own_rows(ground: Ground, number: int, parts: Parts) -> Parts:
    """The rows that a member is asked about."""
    if ground.routing is None:
        return parts
    routes = {name: ground.routing.of(rows) for name, rows in parts.items()}
    return {name: rows.select(np.flatnonzero(routes[name] == number)) for name, rows in parts.items()}


def _label_member(
    ground: Ground, spec: EnsembleSpec, number: int, parts: Parts, wanted: Wanted, progress: Progress
) -> Store:
    """The store of one of several teachers, by its own reading of the rows."""
    assert ground.teacher is not None, "teachers that are asked are models"
    task, (name, member) = ground.task, list(ground.teacher.members.items())[number]
    encoded: dict[str, tuple[Encoded, list[str]]] = {
        part: (task.encode(rows, member.processor), task.content_keys(rows))
        for part, rows in parts.items()
        if len(rows)
    }
    facts = _facts(task, member, ground.members_fitted[name], spec.members[name].label_map, spec.batch_tokens)
    about = {"name": member.source.name, "source": member.source.model_dump(mode="json")}
    return label(
        member, task, encoded, wanted, ground.out / "store" / "members", facts, about=about,
        batch_tokens=spec.batch_tokens, device=ground.device, progress=progress,
    )  # fmt: skip


def _join(
    ground: Ground, spec: EnsembleSpec, stores: list[Store], parts: Parts,
    encoded: dict[str, tuple[Encoded, list[str]]], wanted: Wanted, place: Path, facts: dict[str, Any],
    about: dict[str, Any],
) -> Store:  # fmt: skip
    """What several teachers say, as one store."""
    task, routing = ground.task, ground.routing
    plain = {name: np.array(task.content_keys(rows)) for name, rows in parts.items()}
    routes = {} if routing is None else {name: routing.of(rows) for name, rows in parts.items()}

    def make(piece: Piece, tell: Tell) -> tuple[ShardFacts, dict[str, int]]:
        keys = plain[piece.split][piece.rows]
        if routing is None:
            signals = {"logits": _mixed(spec, stores, keys, ground)}
        else:
            signals = _gathered(stores, keys, routes[piece.split][piece.rows], wanted)
        tell(len(keys))
        widths = {name: value.shape[1] for name, value in signals.items()}
        return write_shard(piece.folder, piece.name, piece.keys, signals), widths

    return fill(
        place, row_manifest(task, wanted, facts, about), ground.processor, encoded, make, kind=Store, shard_rows=None,
        progress=None,
    )  # fmt: skip


def _mixed(spec: EnsembleSpec, stores: list[Store], keys: np.ndarray, ground: Ground) -> np.ndarray:
    said = [named(store.read(store.rows(keys.tolist()), Wanted(logits=True)))["logits"] for store in stores]
    return combined(said, spec.weights, spec.combine, ground.task.problem).numpy()


def _gathered(stores: list[Store], keys: np.ndarray, route: np.ndarray, wanted: Wanted) -> dict[str, np.ndarray]:
    """Each row's signals from the store of its teacher."""
    found: dict[str, np.ndarray] = {}
    for number in np.unique(route).tolist():
        own = np.flatnonzero(route == number)
        store = stores[number]
        for name, value in named(store.read(store.rows(keys[own].tolist()), wanted)).items():
            if name not in found:
                found[name] = np.empty((len(keys), value.shape[1]), dtype=np.float32)
            found[name][own] = value.numpy()
    return found
