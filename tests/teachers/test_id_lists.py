"""Fields of bits, and ascending ids in buckets of unequal width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.teachers.bit_fields import WIDEST, fields, pack_bits, pack_fields, region, stream_bytes
from attar.teachers.id_lists import find_buckets, partition, split, widths_of

quick = settings(max_examples=50, derandomize=True)


@quick
@given(st.lists(st.integers(0, WIDEST).flatmap(lambda w: st.tuples(st.just(w), st.integers(0, (1 << w) - 1)))))
def test_fields_come_back_from_any_position(some: list[tuple[int, int]]) -> None:
    widths, values = np.array(some, dtype=np.int64).reshape(-1, 2).T
    stream = pack_fields(values, widths)
    assert len(stream) == stream_bytes(int(widths.sum()))
    assert int.from_bytes(stream.tobytes(), "little") == sum(
        v << at for v, at in zip(values.tolist(), (np.cumsum(widths) - widths).tolist(), strict=True)
    )
    np.testing.assert_array_equal(fields(stream, np.cumsum(widths) - widths, widths), values)


def test_a_region_is_the_asked_bytes_alone() -> None:
    stream = pack_fields(np.arange(64), np.full(64, 6))
    starts, stops = np.array([6 * 40, 0, 6 * 9]), np.array([6 * 43, 6 * 2, 6 * 9])
    got = region(stream, starts, stops)
    assert len(got.content) <= sum(stops - starts) // 8 + 3 * 6
    positions = np.concatenate([np.arange(a, b, 6) + s for a, b, s in zip(starts, stops, got.shift, strict=True)])
    assert fields(got.content, positions, 6).tolist() == [40, 41, 42, 0, 1]


def cheapest(held: list[int], lists: int) -> int:
    """Bits of the best partition, by trying every one: a bucket, or the best of both halves."""
    width = len(held).bit_length() - 1
    whole = sum(held) * width + lists
    if len(held) == 1:
        return whole
    half = len(held) // 2
    return min(whole, cheapest(held[:half], lists) + cheapest(held[half:], lists))


@quick
@given(ids=st.lists(st.integers(0, 15), min_size=1, max_size=40), lists=st.integers(1, 12))
def test_no_partition_needs_fewer_bits(ids: list[int], lists: int) -> None:
    token_ids = np.array([*ids, 15])
    edges = partition(token_ids, lists)
    assert edges[0] == 0
    assert edges[-1] == 16
    widths = np.diff(edges)
    assert (edges[:-1] % widths == 0).all()
    assert widths_of(edges).tolist() == [int(w).bit_length() - 1 for w in widths]
    bits = int(widths_of(edges)[np.searchsorted(edges, token_ids, side="right") - 1].sum()) + lists * len(widths)
    assert bits == cheapest(np.bincount(token_ids, minlength=16).tolist(), lists)


@quick
@given(
    lists=st.lists(st.lists(st.integers(0, 200), max_size=12), min_size=1, max_size=8),
    extra=st.sampled_from([[], [2**17 - 1], [2**18]]),
)
def test_ids_come_back(lists: list[list[int]], extra: list[int]) -> None:
    lists = [sorted(one) for one in [*lists, extra]]
    counts, token_ids = (
        np.array([len(one) for one in lists]),
        np.array([i for one in lists for i in one], dtype=np.int64),
    )
    edges = partition(token_ids, len(lists))
    unary, low, widths = split(token_ids, counts, edges)
    assert (low < 1 << widths).all()
    stream, whole = pack_bits(unary), np.array([len(unary)])
    read = region(stream, np.array([0]), whole)
    buckets = find_buckets(read, np.array([0]), whole, np.array([len(lists)]), counts, len(edges) - 1)
    np.testing.assert_array_equal(edges[buckets] + low, token_ids)


def test_ids_that_crowd_cost_less_than_their_place_in_the_vocabulary() -> None:
    rng = np.random.default_rng(0)
    lists = [np.unique((49_152 * rng.random(24) ** 3).astype(np.int64)) for _ in range(500)]
    token_ids = np.concatenate(lists)
    edges = partition(token_ids, len(lists))
    unary, _, widths = split(token_ids, np.array([len(one) for one in lists]), edges)
    even = np.log2(49_152 / 24) + 2
    assert (len(unary) + widths.sum()) / len(token_ids) < even - 1.0


def test_a_damaged_stream_is_told() -> None:
    token_ids, counts = np.arange(0, 40, 2), np.array([10, 10])
    edges = partition(token_ids, 2)
    unary, _, _ = split(token_ids, counts, edges)
    span = np.array([0]), np.array([len(unary)]), np.array([2]), counts, len(edges) - 1
    flipped = unary.copy()
    flipped[3] ^= 1
    with pytest.raises(ValueError, match="ids are damaged"):
        find_buckets(region(pack_bits(flipped), *span[:2]), *span)
    with pytest.raises(ValueError, match="must be below"):
        partition(np.array([1 << WIDEST]), 1)
