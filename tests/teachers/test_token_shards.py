"""Shards of tokens: random rows read as the whole does, damage is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from attar.errors import StoreError
from attar.objectives.sparse import top_mass
from attar.objectives.threshold_sampling import threshold_targets
from attar.teachers.shards import ShardFacts, damage
from attar.teachers.token_codec import Draws, Lists, pack_draws, pack_lists
from attar.teachers.token_shards import TokenShard, map_token_shard, row_starts, write_token_shard

LENGTHS = np.array([5, 0, 17, 1, 64, 130, 8])
KEYS = [f"{row:016x}" for row in range(len(LENGTHS))]


def packed(kind: str) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(2)
    logits = 3.0 * torch.randn(int(LENGTHS.sum()), 500, generator=generator)
    if kind == "lists":
        listed = top_mass(logits, 0.1, most=24)
        parts = (listed.token_ids, listed.log_probs, listed.tail)
        return pack_lists(Lists(*(part.numpy() for part in parts)), starts=row_starts(LENGTHS))
    drawn = threshold_targets(logits, 0.04, most=24, generator=generator)
    parts = (drawn.token_ids, drawn.log_probs, drawn.weights)
    uniforms = np.random.default_rng(0).random((len(logits), drawn.token_ids.shape[1] + 1))
    return pack_draws(Draws(*(part.numpy() for part in parts)), uniforms, starts=row_starts(LENGTHS))


@pytest.fixture(params=["lists", "draws"])
def written(request, tmp_path) -> tuple[Path, ShardFacts]:
    facts = write_token_shard(tmp_path, "t0.safetensors", KEYS, LENGTHS, packed(request.param))
    return tmp_path / facts.name, facts


def test_random_rows_are_those_of_the_whole(written):
    path, facts = written
    assert facts.rows == len(LENGTHS)
    assert facts.bytes == path.stat().st_size
    shard = map_token_shard(path, facts.rows)
    assert len(shard) == len(LENGTHS)
    assert [key.decode() for key in shard.keys] == KEYS
    assert all(isinstance(value, np.memmap) for value in shard.packed.values())
    np.testing.assert_array_equal(shard.lengths, LENGTHS)
    every = shard.read(np.arange(len(LENGTHS)))
    assert len(every[0]) == LENGTHS.sum()
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.integers(0, len(LENGTHS), size=rng.integers(1, 6))
        some = shard.read(rows)
        tokens = np.concatenate([np.arange(s, s + n) for s, n in zip(shard.starts[rows], LENGTHS[rows], strict=True)])
        for mine, all_ in zip(some, every, strict=True):
            whole = all_[tokens.astype(int)]
            np.testing.assert_array_equal(mine, whole if mine.ndim == 1 else whole[:, : mine.shape[1]])


def test_a_part_of_a_row(written):
    path, facts = written
    shard = map_token_shard(path, facts.rows)
    row = shard.read(np.array([5]))
    part = shard.read_tokens(shard.starts[[5]] + 40, shard.starts[[5]] + 70)
    for mine, all_ in zip(part, row, strict=True):
        np.testing.assert_array_equal(mine, all_[40:70] if mine.ndim == 1 else all_[40:70, : mine.shape[1]])


def test_a_shard_is_an_ordinary_safetensors_file(written):
    path, _ = written
    content = load_file(path)
    assert content["lengths"].tolist() == LENGTHS.tolist()
    assert content["marks"][:, 0].tolist() == [0, *row_starts(LENGTHS)[1:], LENGTHS.sum()]


def test_damage_is_told(written):
    path, facts = written
    whole = path.read_bytes()
    assert damage(path, facts) is None
    for cut in (0, 7, 40, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        assert damage(path, facts)
        with pytest.raises(StoreError, match=r"t0\.safetensors: this shard .*attar store verify.*attar store prune"):
            map_token_shard(path, facts.rows)
    flipped = bytearray(whole)
    flipped[-9] ^= 4
    path.write_bytes(flipped)
    assert "SHA-256" in (damage(path, facts) or "")
    path.unlink()
    with pytest.raises(StoreError, match="this shard is missing"):
        map_token_shard(path, facts.rows)


def test_no_flipped_bit_ends_in_another_error(written):
    """The hash finds every one; where nobody asked for it, opening and reading give numbers or a StoreError."""
    path, facts = written
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    told = 0
    for place in rng.integers(8, len(whole), size=150):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        assert damage(path, facts)
        try:
            map_token_shard(path, facts.rows).read(np.arange(len(LENGTHS)))
        except StoreError:
            told += 1
    assert told > 20


def test_another_shard_than_the_manifest_says(written):
    path, facts = written
    with pytest.raises(StoreError, match=r"manifest says 6 rows of tokens"):
        map_token_shard(path, facts.rows - 1)
    other = packed("lists")
    short = {**other, "steps": other["steps"][1:]}
    write_token_shard(path.parent, "t1.safetensors", KEYS, LENGTHS, short)
    with pytest.raises(StoreError, match=r"t1\.safetensors: this shard is damaged: steps"):
        map_token_shard(path.parent / "t1.safetensors", facts.rows)


def test_rows_and_tokens_must_agree(tmp_path):
    with pytest.raises(ValueError, match=r"7 keys and 7 rows of 224 tokens, but 225 tokens are packed"):
        write_token_shard(tmp_path, "t.safetensors", KEYS, LENGTHS - np.eye(7, dtype=int)[0], packed("lists"))
    assert not list(tmp_path.iterdir())


def test_what_is_read_may_be_written_to(written):
    path, facts = written
    shard: TokenShard = map_token_shard(path, facts.rows)
    before = shard.read(np.array([2]))
    shard.read(np.array([2]))[1][:] = 0.0
    np.testing.assert_array_equal(shard.read(np.array([2]))[1], before[1])
