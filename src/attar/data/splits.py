"""What the data stage hands on: train, validation, test, transfer rows, label names, facts, a content hash."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import Dataset

from attar.facts import DataFacts, SourceFacts


@dataclass(frozen=True)
class Splits:
    """Rows in canonical columns: `text` (`text_pair`) or `image`, `label`, `origin`, and `slice` where asked for."""

    train: Dataset
    validation: Dataset
    test: Dataset
    transfer: Dataset | None
    """Augmented and unlabelled rows in the order of the recipe; their `label` is kept only where it survives."""
    labels: tuple[str, ...]
    """Names by id; for regression one name. Without labelled data: `task.labels`, or () where that is absent."""
    labelled: bool
    """False: no split has labels; every `label` is -100 or NaN (a row of NaN for `multi_label`)."""
    facts: DataFacts
    hash: str
    """Content hash of all four, order included."""
    sources: tuple[SourceFacts, ...] = ()
    """Sources of unlabelled rows, with the content hash of the rows that were taken from each."""
