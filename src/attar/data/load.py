"""The data stage: read the source, make the labels one list, cut what splits are missing, take overlaps out, add
transfer rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from datasets import Dataset

from attar.data.columns import Rows, read_rows
from attar.data.cutting import draw, stratified_cut
from attar.data.labels import Labels, problem_of, read_labels
from attar.data.overlap import outside, repeated
from attar.data.raw import RawSplit
from attar.data.sources import Given, Source, read_source
from attar.data.splits import Splits
from attar.data.transfer import transfer_rows
from attar.errors import DataError
from attar.facts import DataFacts
from attar.hashing import hash_value
from attar.recipe import Recipe
from attar.recipe.data import DataSpec
from attar.recipe.nearest import did_you_mean, listed
from attar.recipe.task import CausalLMSpec, TaskSpec

_VALIDATION = "validation"
_DEFAULT_TEST = "test"
_LOOKALIKES = ("dev", "val", "valid", "validate", "eval", "evaluation")


def load_data(recipe: Recipe, given: Given | None = None) -> Splits:
    """All rows of a recipe, checked; the same recipe and files give the same rows in the same order.

    `given` replaces `data.source`: rows handed over in Python, by split name or as one split. Raises DataError.
    """
    spec, task = recipe.data, recipe.row_task
    notes: list[str] = []
    source = read_source(
        spec.source,
        config=spec.config,
        revision=spec.revision,
        task=task,
        split_names={n for n in (spec.splits.train, spec.splits.validation, spec.splits.test, _VALIDATION) if n},
        given=given,
    )
    chosen = _chosen_splits(spec, source, notes)
    labels = read_labels(task, chosen)
    rows = {role: read_rows(raw, task, labels.by_split[role], source.base) for role, raw in chosen.items()}
    _cut_missing(rows, spec, notes)
    removed = _remove_overlaps(rows, notes)
    duplicates = repeated(rows["train"].keys)
    limits = {"train": spec.max_train_rows, "validation": spec.max_held_out_rows, "test": spec.max_held_out_rows}
    for role, limit in limits.items():
        if limit is not None:
            rows[role] = rows[role].take(draw(rows[role].labels, limit, spec.seed))
    _check_classes(rows["train"], labels, task, spec, notes)
    transfer, dropped, sources = transfer_rows(recipe, rows, len(labels.names), notes)
    splits = _handed_on(rows, transfer, labels, removed + dropped, duplicates, notes)
    return replace(splits, sources=sources)


def load_split(task: TaskSpec, source: str, split: str | None = None) -> tuple[Dataset, bool, str]:
    """The rows of one split of any source, checked against `task` (with its `labels` given); do they have labels; and
    the split's name. `split`: None, `test` or else the only one.

    Nothing is cut, drawn or taken out. Raises DataError.
    """
    found = read_source(source, config=None, revision=None, task=task, split_names={split or _DEFAULT_TEST})
    name = split or (next(iter(found.splits)) if len(found.splits) == 1 else _DEFAULT_TEST)
    if name not in found.splits:
        raise DataError(f'{source}: there is no split "{name}". Splits here: {listed(found.splits)}.')
    raw = found.splits[name]
    labels = read_labels(task, {name: raw})
    return read_rows(raw, task, labels.by_split[name], found.base).dataset, labels.labelled, name


def _chosen_splits(spec: DataSpec, source: Source, notes: list[str]) -> dict[str, RawSplit]:
    """The raw splits that the recipe uses, by role; validation and test may be missing."""
    names, splits = spec.splits, source.splits
    wanted = {"train": names.train, "validation": names.validation, "test": names.test}
    chosen: dict[str, RawSplit] = {}
    for role, name in wanted.items():
        if role == "validation" and name is None and _VALIDATION not in (names.train, names.test):
            name = _VALIDATION if _VALIDATION in splits else None
        if name is None:
            continue
        if name in splits:
            chosen[role] = splits[name]
        elif not (role == "test" and name == _DEFAULT_TEST):
            raise DataError(
                f'{source.name}: there is no split "{name}" (data.splits.{role}).{did_you_mean(name, splits)} '
                f"Splits here: {listed(splits)}. Set data.splits.{role} to one of them."
            )
    for role, raw in chosen.items():
        if len(raw) == 0:
            raise DataError(
                f"{raw.place}: the split has no rows (data.splits.{role}). Choose another split, or fill it."
            )
    if "validation" not in chosen:
        unused = [name for name in _LOOKALIKES if name in splits and name not in wanted.values()]
        notes.extend(f'The source also has a split "{n}"; data.splits.validation: {n} would use it.' for n in unused)
    return chosen


def _cut_missing(rows: dict[str, Rows], spec: DataSpec, notes: list[str]) -> None:
    """Cut test, then validation, from train where they are missing."""
    cuts = (("test", spec.test_fraction, spec.seed), ("validation", spec.validation_fraction, spec.seed + 1))
    for role, fraction, seed in cuts:
        if role in rows:
            continue
        train = rows["train"]
        kept, cut = stratified_cut(train.labels, fraction, seed)
        if len(cut) == 0:
            raise DataError(
                f"train has {len(train)} rows and a split {role} must be cut from it: too few rows for that. Every "
                f"class keeps one; give a split {role}, or more rows."
            )
        rows["train"], rows[role] = train.take(kept), train.take(cut)
        notes.append(f"{role}: {len(cut)} rows cut from train, as the source has no such split.")


def _remove_overlaps(rows: dict[str, Rows], notes: list[str]) -> int:
    """Take rows of test out of validation and train, and rows of validation out of train; how many were taken out."""
    test, validation, train = rows["test"], rows["validation"], rows["train"]
    validation = validation.take(outside(validation.keys, test.keys))
    train_clear = train.take(outside(train.keys, test.keys))
    from_test = len(train) - len(train_clear)
    train_clear = train_clear.take(outside(train_clear.keys, validation.keys))
    from_validation = len(train) - from_test - len(train_clear)
    of_validation = len(rows["validation"]) - len(validation)
    for count, what in (
        (from_test, "train that stand in test"),
        (from_validation, "train that stand in validation"),
        (of_validation, "validation that stand in test"),
    ):
        if count:
            notes.append(f"{count} rows of {what} were taken out.")
    if len(train_clear) == 0 or len(validation) == 0:
        empty = "train" if len(train_clear) == 0 else "validation"
        raise DataError(
            f"every row of {empty} also stands in {'test or validation' if empty == 'train' else 'test'}: nothing is "
            "left after the overlaps were taken out. Give splits that differ."
        )
    rows["train"], rows["validation"] = train_clear, validation
    return from_test + from_validation + of_validation


def _check_classes(train: Rows, labels: Labels, task: TaskSpec, spec: DataSpec, notes: list[str]) -> None:
    if isinstance(task, CausalLMSpec) or not labels.labelled or problem_of(task) == "regression":
        return
    single = problem_of(task) == "single_label"
    counts = np.bincount(train.labels, minlength=len(labels.names)) if single else train.labels.sum(0).astype(np.int64)
    by_name = dict(zip(labels.names, counts.tolist(), strict=True))
    present = [name for name, count in by_name.items() if count]
    if single and len(present) < 2:
        raise DataError(
            f'train has one label only ("{present[0]}", {len(train)} rows); a classifier needs two. Check task.label '
            f'("{task.label}") and data.splits.train.'
        )
    few = {name: count for name, count in by_name.items() if count < spec.min_class_rows}
    if few:
        told = listed(f'"{name}" ({count})' for name, count in few.items())
        raise DataError(
            f"labels with fewer than {spec.min_class_rows:g} training rows (data.min_class_rows): {told}. Add rows, "
            "drop these labels, or lower data.min_class_rows."
        )
    absent = [name for name, count in by_name.items() if not count]
    if absent:
        notes.append(f"Labels without a training row: {listed(absent)}.")


def _handed_on(
    rows: Mapping[str, Rows], transfer: Rows | None, labels: Labels, removed: int, duplicates: int, notes: list[str]
) -> Splits:
    every = {**rows, **({} if transfer is None else {"transfer": transfer})}
    empty_texts = sum(key.strip("\x1f") == "" for part in every.values() for key in part.keys)
    if empty_texts:
        notes.append(f"{empty_texts} rows have an empty text.")
    facts = DataFacts(
        rows={name: len(part) for name, part in every.items()},
        labels=list(labels.names),
        labelled=labels.labelled,
        overlap_removed=removed,
        duplicates=duplicates,
        truncated=0,  # counted where texts become tokens
        notes=notes,
    )
    return Splits(
        train=rows["train"].dataset,
        validation=rows["validation"].dataset,
        test=rows["test"].dataset,
        transfer=None if transfer is None else transfer.dataset,
        labels=labels.names,
        labelled=labels.labelled,
        facts=facts,
        hash=hash_value({"labels": labels.names, **{name: part.hash() for name, part in every.items()}}),
    )
