"""Texts that a tiny model can learn: one word of each gives its label away."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from attar.data.splits import Splits
from attar.facts import DataFacts

LABELS = ("card", "cash", "rate")
WORDS = {"card": ["card", "plastic", "chip"], "cash": ["cash", "coins", "notes"], "rate": ["rate", "exchange", "price"]}
FILLER = "where is my the a please now how today when can".split()


def rows(n: int, seed: int = 0) -> Dataset:
    """Texts of 3 to 20 words, one of which gives the label away."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for i in range(n):
        label = i % len(LABELS)
        words = rng.choice(FILLER, int(rng.integers(3, 20))).tolist()
        words.insert(int(rng.integers(0, len(words))), str(rng.choice(WORDS[LABELS[label]])))
        texts.append(" ".join(words))
        labels.append(label)
    return Dataset.from_dict({"text": texts, "label": labels, "origin": ["train"] * n})


def splits(train: Dataset, validation: Dataset, labels: tuple[str, ...] = LABELS) -> Splits:
    facts = DataFacts(rows={}, labels=list(labels), labelled=True, overlap_removed=0)
    return Splits(train, validation, validation, None, labels, True, facts, "data-hash")
