from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.errors import TrainingError
from attar.training.rows import Batch, Batches, TrainingRows, steps_per_epoch
from training.parts import text_task, training_rows

LENGTHS = np.random.default_rng(0).integers(3, 60, 1000)


def steps_of(batches: Batches) -> list[set[int]]:
    every: list[Batch] = list(batches)
    starts = range(0, len(every), batches.a_step)
    return [{row for batch in every[i : i + batches.a_step] for row in batch.rows.tolist()} for i in starts]


@given(
    rows=st.integers(1, 200),
    batch_size=st.integers(1, 20),
    accumulate=st.integers(1, 5),
    world=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_every_row_comes_once_an_epoch_and_no_micro_batch_is_too_large_or_empty(
    rows: int, batch_size: int, accumulate: int, world: int, seed: int
) -> None:
    if rows < world:
        return
    lengths = np.random.default_rng(seed).integers(1, 9, rows)
    ranks = [
        list(Batches(lengths, batch_size=batch_size, accumulate=accumulate, seed=seed, world=world, rank=rank))
        for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1, "every process has as many micro-batches"
    together = np.concatenate([batch.rows for batches in ranks for batch in batches])
    assert sorted(together.tolist()) == list(range(rows))
    sizes = {len(batch.rows) for batches in ranks for batch in batches}
    assert min(sizes) >= 1
    assert max(sizes) <= batch_size + 1
    if batch_size > 1:
        assert max(sizes) <= batch_size


def test_steps_are_even() -> None:
    sizes = [len(batch.rows) for batch in Batches(LENGTHS, batch_size=64, accumulate=1, seed=0)]
    assert len(sizes) == 16
    assert set(sizes) == {62, 63}


def test_the_rows_of_a_step_do_not_depend_on_how_the_step_is_divided() -> None:
    whole = steps_of(Batches(LENGTHS, batch_size=64, accumulate=1, seed=3))
    accumulated = steps_of(Batches(LENGTHS, batch_size=16, accumulate=4, seed=3))
    ranks = [Batches(LENGTHS, batch_size=32, accumulate=1, seed=3, world=2, rank=rank) for rank in (0, 1)]
    parallel = [a | b for a, b in zip(*map(steps_of, ranks), strict=True)]
    assert whole == accumulated == parallel


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = Batches(LENGTHS, batch_size=32, accumulate=1, seed=seed)
        batches.set_epoch(epoch)
        np.random.default_rng().random()
        return np.concatenate([b.rows for b in batches]).tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_rows_of_like_length_stand_together() -> None:
    def padded(batches: list[np.ndarray]) -> int:
        return sum(int(LENGTHS[rows].max()) * len(rows) for rows in batches)

    grouped = padded([batch.rows for batch in Batches(LENGTHS, batch_size=32, accumulate=1, seed=0)])
    assert grouped < 1.1 * LENGTHS.sum()
    assert padded(np.array_split(np.random.default_rng(0).permutation(1000), 32)) > 1.5 * LENGTHS.sum()


def test_steps_per_epoch() -> None:
    assert steps_per_epoch(1000, batch_size=64, accumulate=1) == 16
    assert steps_per_epoch(1000, batch_size=16, accumulate=2, world=2) == 16
    assert steps_per_epoch(3, batch_size=64, accumulate=4) == 1
    assert steps_per_epoch(5, batch_size=1, accumulate=4) == 1


def test_too_few_rows_for_the_processes() -> None:
    with pytest.raises(TrainingError, match="2 rows cannot feed 3 processes"):
        Batches(np.ones(2), batch_size=1, accumulate=1, seed=0, world=3)


def test_rows_that_cannot_be_trained_on() -> None:
    _, tokenizer, encoded = text_task()
    none = type(encoded)({name: [] for name in encoded.inputs}, encoded.lengths[:0], encoded.labels[:0])
    with pytest.raises(TrainingError, match="no rows to train on"):
        TrainingRows(none, tokenizer)
    assert len(training_rows()) == len(encoded)
