"""What a store says of itself: `manifest.json`, the names of signals, and where a store is found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from attar.errors import StoreError
from attar.hashing import hash_value
from attar.signals import HiddenKey, Pool, Wanted
from attar.storage import atomic_write
from attar.teachers.shards import ShardFacts

FORMAT = 1
MANIFEST = "manifest.json"
PROCESSOR = "processor"
TOKENS = "tokens"
"""What a store offers that holds a language model's answer to each token (see `token_store`)."""
_POOLS = ("mean", "first")


def offers_of(wanted: Wanted) -> tuple[str, ...]:
    """Names of signals as a store writes them: `logits`, `hidden:LAYER:POOL`. StoreError: what is not pooled."""
    unpooled = [f"hidden state {key.layer} with `pool: {key.pool}`" for key in wanted.hidden if key.pool not in _POOLS]
    unpooled += [f"{key.of} of attention layer {key.layer}" for key in wanted.attention]
    if unpooled:
        raise StoreError(
            f"{unpooled[0]}: what is not pooled to one vector a row is not stored. Use `pool: mean` or `pool: first` "
            "in the objective, or `teacher.signals: live`."
        )
    names = ["logits"] if wanted.logits else []
    return (*names, *(f"hidden:{key.layer}:{key.pool}" for key in sorted(set(wanted.hidden))))


def wanted_of(offers: Sequence[str]) -> Wanted:
    """The signals that stand behind a store's names; inverse of `offers_of`."""
    hidden = [name.split(":") for name in offers if name != "logits"]
    return Wanted("logits" in offers, tuple(HiddenKey(int(layer), cast("Pool", pool)) for _, layer, pool in hidden))


@dataclass
class Manifest:
    """`manifest.json` of a store."""

    facts: dict[str, Any]
    """All that shaped the signals; their hash is the store's key."""
    offers: tuple[str, ...]
    labels: tuple[str, ...]
    """Names of the logits, in order."""
    about: dict[str, Any] = field(default_factory=dict[str, Any])
    """What people want to know besides: name, licence, parameters. Shapes nothing."""
    widths: dict[str, int] = field(default_factory=dict[str, int])
    shards: list[ShardFacts] = field(default_factory=list[ShardFacts])

    @property
    def key(self) -> str:
        """Hash of the facts, the signals and the format: the folder's name."""
        return hash_value({"facts": self.facts, "offers": list(self.offers), "format": FORMAT})

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens in all shards, of rows that have them."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Of all shards' files."""
        return sum(shard.bytes for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Write `manifest.json` atomically."""
        content = {"format": FORMAT, "key": self.key, **asdict(self), "rows": self.rows}
        atomic_write(folder / MANIFEST, json.dumps(content, indent=1, sort_keys=True))


def find_store(path: Path) -> Path:
    """The folder with the manifest: `path` itself, or the only store below `path/signals` (or `path/store/signals`)."""
    for root in (path, path / "signals", path / "store" / "signals"):
        if (root / MANIFEST).is_file():
            return root
        inner = sorted(m.parent for m in root.glob(f"*/{MANIFEST}"))
        if len(inner) == 1:
            return inner[0]
        if inner:
            raise StoreError(
                f"{root}: holds {len(inner)} stores: {', '.join(p.name for p in inner)}. Name one of them."
            )
    raise StoreError(f"{path}: no store here (no {MANIFEST}). Make one with `attar label RECIPE`, or correct the path.")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`. Raises StoreError."""
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        found = content.pop("format")
        if found != FORMAT:
            raise StoreError(
                f"{folder / MANIFEST}: written in format {found}; this attar reads format {FORMAT}. Label again, or "
                "use "
                "the attar that wrote it."
            )
        key, _ = content.pop("key"), content.pop("rows")
        shards = [ShardFacts(**entry) for entry in content.pop("shards")]
        content = {**content, "offers": tuple(content["offers"]), "labels": tuple(content["labels"])}
        manifest = Manifest(**content, shards=shards)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise StoreError(
            f"{folder / MANIFEST}: not a store's manifest ({error}). Delete the folder and label again."
        ) from None
    if key != manifest.key:
        raise StoreError(
            f"{folder / MANIFEST}: its key is {key}, but its facts hash to {manifest.key}: it was edited by hand. "
            "Delete the folder and label again."
        )
    return manifest
