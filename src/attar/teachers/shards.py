"""One shard: a safetensors file with the signals of some rows and their content keys; written whole, read by mapping.

A shard is an ordinary safetensors file, so any tool can open it. It is read without copying: the header is parsed here
and the tensors are views of one memory map, so that a random batch touches only its own rows. What every shard has in
common is here, and the shard of one vector a row; for what is said of each token see `token_shards`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from attar.errors import StoreError
from attar.hashing import sha256
from attar.storage import atomic_write

KEYS = "keys"
_DTYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
}


@dataclass(frozen=True)
class ShardFacts:
    """What the manifest says about one shard."""

    name: str
    sha256: str
    bytes: int
    rows: int
    tokens: int = 0
    """Of rows that have them (see `token_shards`): all that are told of."""


def write_shard(folder: Path, name: str, keys: Sequence[str], signals: dict[str, np.ndarray]) -> ShardFacts:
    """Write one shard atomically. `signals` are [n, C] or [n, D], n as in `keys`. Raises StorageError."""
    return write_tensors(folder, name, keys, {s: np.asarray(value, dtype="<f4") for s, value in signals.items()})


def map_shard(path: Path, offers: Sequence[str], rows: int) -> dict[str, np.ndarray]:
    """Memory-mapped, read-only views of a shard: `keys` as bytes [n], each signal as float32 [n, width].

    Raises StoreError where the file is absent, truncated, or not what the manifest says.
    """
    tensors = map_tensors(path)
    wrong = [s for s in offers if s not in tensors or tensors[s].dtype != "<f4" or tensors[s].shape[:1] != (rows,)]
    if wrong or KEYS not in tensors or tensors[KEYS].shape[:1] != (rows,):
        raise StoreError(
            f"{path}: this shard holds {sorted(tensors)}, but the manifest says {rows} rows of {[*offers, KEYS]}. "
            + remedy(path.parent)
        )
    return {**{s: tensors[s] for s in offers}, KEYS: keys_of(tensors)}


def write_tensors(folder: Path, name: str, keys: Sequence[str], tensors: dict[str, np.ndarray]) -> ShardFacts:
    """Write any arrays, with the content keys of the rows they are about, atomically. Raises StorageError."""
    whole = {tensor: np.ascontiguousarray(value) for tensor, value in tensors.items()}
    content = save({**whole, KEYS: _pack(keys)}, metadata={"format": "attar-signals"})
    atomic_write(folder / name, content)
    return ShardFacts(name, hashlib.sha256(content).hexdigest(), len(content), len(keys))


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Memory-mapped, read-only views of all arrays of a shard. Raises StoreError where it is absent or truncated."""
    try:
        size = path.stat().st_size
        raw = np.memmap(path, dtype=np.uint8, mode="r") if size else np.empty(0, dtype=np.uint8)
    except FileNotFoundError:
        raise StoreError(f"{path}: this shard is missing. {remedy(path.parent)}") from None
    return _views(path, raw)


def keys_of(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The content keys in a shard's arrays, as bytes [n]."""
    keys = tensors[KEYS]
    return np.ascontiguousarray(keys).view(f"S{keys.shape[1]}").reshape(len(keys))


def damage(file: Path, shard: ShardFacts) -> str | None:
    """What is wrong with a shard's file; None: its SHA-256 is that of what was written."""
    if not file.is_file():
        return f"{file}: this shard of {shard.rows} rows is missing."
    size = file.stat().st_size
    if size != shard.bytes:
        return f"{file}: this shard is damaged: it has {size} bytes, {shard.bytes} were written."
    found = sha256(file)
    if found != shard.sha256:
        return f"{file}: this shard is damaged: its SHA-256 is {found[:16]}..., {shard.sha256[:16]}... was written."
    return None


def remedy(folder: Path) -> str:
    """What to do about a damaged shard."""
    return (
        f"`attar store verify {folder}` lists the damage; `attar store prune {folder}` removes damaged shards, "
        "then the same command again labels only their rows."
    )


def _pack(keys: Sequence[str]) -> np.ndarray:
    """Keys as ASCII, uint8 [n, longest]; shorter ones are padded with zeros."""
    packed = np.array([key.encode("ascii") for key in keys], dtype=np.bytes_)
    return packed.view(np.uint8).reshape(len(keys), packed.dtype.itemsize)


def _views(path: Path, raw: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as views of its bytes. Format: github.com/huggingface/safetensors."""
    try:
        length = int.from_bytes(raw[:8].tobytes(), "little")
        header: dict[str, Any] = json.loads(raw[8 : 8 + length].tobytes())
        data, views = raw[8 + length :], dict[str, np.ndarray]()
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                views[name] = data[start:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        return views
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path}: this shard is truncated or not a safetensors file ({error}). {remedy(path.parent)}"
        ) from None
