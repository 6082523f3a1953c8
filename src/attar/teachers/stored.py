"""`kind: stored`: a teacher that is a folder of signals, made earlier or elsewhere by `attar label`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import Dataset

from attar.errors import StoreError, TeacherError
from attar.recipe.teacher import LocalTeacherSpec, StoredTeacherSpec
from attar.signals import Wanted
from attar.tasks.base import Processor, Task
from attar.teachers.fitted import TEACHER, load_fitted
from attar.teachers.local import LocalTeacher, load_local
from attar.teachers.manifest import PROCESSOR, wanted_of
from attar.teachers.scoring import named, score_rows
from attar.teachers.store import Store, open_store

OTHER_TEACHER = (
    "Another teacher, or other weights, made this store; label again, or name the right one in `teacher.rescore_with`."
)


def open_stored(spec: StoredTeacherSpec, task: Task, wanted: Wanted) -> Store:
    """Open the recipe's store and check that it serves the task's labels and the wanted signals. Raises StoreError."""
    store = open_store(Path(spec.path).expanduser())
    store.require(task.labels, wanted)
    return store


def stored_processor(store: Store, task: Task) -> Processor:
    """The tokenizer or image processor that was stored with the signals. Raises StoreError where it was left behind."""
    folder = store.path / PROCESSOR
    if not folder.is_dir():
        raise StoreError(
            f"{folder}: is missing; it holds the teacher's tokenizer or image processor. Copy the store's whole "
            "folder, or label again."
        )
    return task.load_processor(folder)


def find_rescorer(spec: StoredTeacherSpec, store: Store, task: Task) -> LocalTeacher | None:
    """The model behind a store, to score some rows again: `rescore_with`, else the folder that the store names.

    None where neither is there. Raises TeacherError where `rescore_with` cannot be loaded.
    """
    named = spec.rescore_with or store.manifest.about.get("folder")
    if named is None or (spec.rescore_with is None and not Path(named).exists()):
        return None
    folder = Path(named)
    if (folder / TEACHER).is_file():
        return load_fitted(folder, task)
    return load_local(LocalTeacherSpec.model_validate({"kind": "local", "model": named}), task)


def spot_check(
    store: Store,
    teacher: LocalTeacher,
    task: Task,
    rows: Dataset,
    processor: Processor | None = None,
    n: int = 8,
    *,
    tolerance: float = 1e-3,
    device: str = "cpu",
) -> float:
    """Ask `teacher` again for `n` rows, evenly spaced, and compare with the store. Returns the largest difference.

    A difference counts relative to the largest stored value of its signal (at least 1). Raises StoreError where a row
    is absent, or differs by more than `tolerance`.
    """
    if n == 0 or len(rows) == 0:
        return 0.0
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(np.int64))
    some = rows.select(chosen.tolist())
    keys = task.content_keys(some)
    processor = teacher.processor if processor is None else processor
    wanted = wanted_of(store.manifest.offers)
    try:
        fresh = score_rows(
            teacher.model.to(device), task, task.encode(some, processor), processor, wanted, device=device
        )
    except TeacherError as error:
        raise StoreError(
            f"{store.path}: {teacher.source.name} cannot be asked for this store's signals: {error}"
        ) from error
    stored, largest = named(store.read(store.rows(keys))), 0.0
    for name, value in fresh.items():
        if stored[name].shape[1] != value.shape[1]:
            raise StoreError(
                f"{store.path}: `{name}` is {stored[name].shape[1]} wide, but {teacher.source.name} gives "
                f"{value.shape[1]}. {OTHER_TEACHER}"
            )
    for name, value in fresh.items():
        kept = stored[name].numpy()
        difference = np.abs(kept - value).max(1) / max(1.0, float(np.abs(kept).max()))
        worst = int(difference.argmax())
        if not difference[worst] <= tolerance:
            raise StoreError(
                f"{store.path}: `{name}` of row {chosen[worst]} (key {keys[worst]}) differs from what "
                f"{teacher.source.name} says now by {difference[worst]:.3g} (tolerance {tolerance:g}). {OTHER_TEACHER}"
            )
        largest = max(largest, float(difference[worst]))
    return largest
