"""Rows and models on disk for plans, without torch: parquet by pyarrow, safetensors by hand."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attar.errors import PlanError
from attar.plan import Plan, make_plan
from attar.recipe.load import recipe_from

WORDS = ("red", "green", "blue", "cat", "dog", "##s")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_rows(
    folder: Path, labels: Sequence[object] = ("a", "b", "a", "b"), split: str = "train", **columns: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = {"text": [f"red cats {i}" for i in range(len(labels))], "label": list(labels)}
    pq.write_table(pa.table({**data, **columns}), folder / f"{split}.parquet")
    return folder


def config(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 128,
        "vocab_size": 100,
        "id2label": {"0": "a", "1": "b"},
        **changes,
    }


def write_model(folder: Path, tensors: dict[str, tuple[int, ...]] | None = None, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(**changes)))
    write_safetensors(folder / "model.safetensors", tensors or {"w": (1000, 10)})
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *WORDS, *"abcde"])}
    model = {"type": "WordPiece", "vocab": vocabulary, "continuing_subword_prefix": "##"}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "normalizer": {"lowercase": True}}))
    return folder


def write_safetensors(file: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    header: dict[str, Any] = {
        "__metadata__": {"format": "pt"},
        "ids": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
    }
    end = 8
    for name, shape in tensors.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * end)


def write_store(folder: Path, offers: Sequence[str], labels: Sequence[str] = ("a", "b")) -> Path:
    folder.mkdir(parents=True)
    (folder / "0.safetensors").write_bytes(b"")
    manifest = {
        "offers": list(offers),
        "labels": list(labels),
        "shards": [{"name": "0.safetensors"}],
        "about": {"facts": {"family": "bert", "params": 1234}, "widths": {str(layer): 16 for layer in range(5)}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def recipe_data(tmp_path: Path) -> dict[str, Any]:
    """A text recipe whose data and teacher are made below `tmp_path` where they are not there yet."""
    rows, model = tmp_path / "rows", tmp_path / "teacher"
    if not rows.exists():
        write_rows(rows)
        write_rows(rows, split="test")
    if not model.exists():
        write_model(model)
    return {
        "name": "sample",
        "task": {"kind": "text_classification", "max_length": 64},
        "teacher": {"kind": "local", "model": str(model)},
        "data": {"source": str(rows)},
        "student": {"kind": "from_teacher", "layers": 2, "hidden_size": 8},
        "objectives": [{"kind": "forward_kl"}],
    }


def merged(data: dict[str, Any], /, **changes: Any) -> dict[str, Any]:
    """A section given as a dictionary is laid over the old one (or replaces it where it has another `kind`)."""
    new = dict(data)
    for name, value in changes.items():
        old = data.get(name)
        same = (
            isinstance(value, dict) and isinstance(old, dict) and value.get("kind", old.get("kind")) == old.get("kind")
        )
        new[name] = {**old, **value} if same else value
    return new


def plan_of(tmp_path: Path, **changes: Any) -> Plan:
    return make_plan(recipe_from(merged(recipe_data(tmp_path), **changes)), out=tmp_path)


def problems_of(tmp_path: Path, **changes: Any) -> list[str]:
    try:
        plan_of(tmp_path, **changes)
    except PlanError as error:
        return [line.removeprefix("recipe  ") for line in error.problems]
    raise AssertionError("the plan has no problem")
