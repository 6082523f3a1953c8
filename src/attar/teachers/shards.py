"""One shard: a safetensors file with the signals of some rows and their content keys; written whole, read by mapping.

A shard is an ordinary safetensors file, so any tool can open it. It is read without copying: the header is parsed here
and the tensors are views of one memory map, so that a random batch touches only its own rows.
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
from attar.storage import atomic_write

KEYS = "keys"
_DTYPES = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}


@dataclass(frozen=True)
class ShardFacts:
    """What the manifest says about one shard."""

    name: str
    sha256: str
    bytes: int
    rows: int


def write_shard(folder: Path, name: str, keys: Sequence[str], signals: dict[str, np.ndarray]) -> ShardFacts:
    """Write one shard atomically. `signals` are [n, C] or [n, D], n as in `keys`. Raises StorageError."""
    tensors = {signal: np.ascontiguousarray(value, dtype="<f4") for signal, value in signals.items()}
    tensors[KEYS] = _pack(keys)
    content = save(tensors, metadata={"format": "attar-signals"})
    atomic_write(folder / name, content)
    return ShardFacts(name, hashlib.sha256(content).hexdigest(), len(content), len(keys))


def map_shard(path: Path, offers: Sequence[str], rows: int) -> dict[str, np.ndarray]:
    """Memory-mapped, read-only views of a shard: `keys` as bytes [n], each signal as float32 [n, width].

    Raises StoreError where the file is absent, truncated, or not what the manifest says.
    """
    try:
        size = path.stat().st_size
        raw = np.memmap(path, dtype=np.uint8, mode="r") if size else np.empty(0, dtype=np.uint8)
    except FileNotFoundError:
        raise StoreError(f"{path}: this shard is missing. {remedy(path.parent)}") from None
    tensors = _views(path, raw)
    wrong = [s for s in offers if s not in tensors or tensors[s].dtype != "<f4" or tensors[s].shape[:1] != (rows,)]
    if wrong or KEYS not in tensors or tensors[KEYS].shape[:1] != (rows,):
        raise StoreError(
            f"{path}: this shard holds {sorted(tensors)}, but the manifest says {rows} rows of {[*offers, KEYS]}. "
            + remedy(path.parent)
        )
    keys = tensors[KEYS]
    return {**{s: tensors[s] for s in offers}, KEYS: np.ascontiguousarray(keys).view(f"S{keys.shape[1]}").reshape(rows)}


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
