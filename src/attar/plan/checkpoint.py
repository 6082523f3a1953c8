"""A model folder seen from outside: its configuration, and what its weights are, from safetensors headers alone."""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, cast

from attar.gguf_header import Header, read_header
from attar.plan.notes import Notes
from attar.plan.transformers_source import model_types
from attar.recipe.nearest import did_you_mean
from attar.recipe.places import Path
from attar.recipe.sources import Found, find_source

_MAX_HEADER = 100 << 20
_FLOATS = ("F", "BF")
_HEADS = ("ForSequenceClassification", "ForImageClassification")
LANGUAGE_HEADS = ("ForCausalLM", "LMHeadModel")
_GGUF_FIELDS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
}


@dataclass
class Checkpoint:
    """What is known of a model before it is opened. `params` None: not known, and `reason` says why."""

    name: str
    found: Found | None = None
    folder: FilePath | None = None
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    params: int | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    reason: str = ""
    header: Header | None = None
    """Of a GGUF file."""

    @property
    def family(self) -> str | None:
        """`model_type` (timm's architecture for timm models), or None where there is no configuration to read."""
        name = self.config.get("model_type") or self.config.get("architecture")
        return None if name is None else str(name)

    @property
    def is_timm(self) -> bool:
        """A timm model, by name or by its folder."""
        return "architecture" in self.config or (self.found is not None and self.found.kind == "timm")

    @property
    def has_head(self) -> bool:
        """Does it end in a classification head?"""
        return self.is_timm or any(str(name).endswith(_HEADS) for name in self.config.get("architectures") or [])

    @property
    def writes(self) -> bool:
        """Is it a language model, which tells the next token?"""
        return any(str(name).endswith(LANGUAGE_HEADS) for name in self.config.get("architectures") or [])

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its outputs in order; `LABEL_0`, … where they have none; empty without a head or a configuration."""
        if not self.config or not self.has_head:
            return ()
        named = self.config.get("id2label") or self.config.get("label_names")
        if isinstance(named, dict):
            by_id = cast("dict[str, str]", named)
            return tuple(str(by_id[key]) for key in sorted(by_id, key=lambda key: int(key) if key.isdecimal() else 0))
        if isinstance(named, list):
            return tuple(str(name) for name in cast("list[Any]", named))
        count = self.config.get("num_classes") or self.config.get("num_labels")
        return tuple(f"LABEL_{i}" for i in range(int(count or 2)))


def look_at_model(
    name: str,
    path: Path,
    notes: Notes,
    *,
    trust_remote_code: bool,
    revision: str | None = None,
    python_objects: bool = False,
) -> Checkpoint:
    """What can be seen of a model by the name that a recipe has at `path`; problems go to `notes`. No network."""
    with notes.at(path):
        found = find_source(name, "model")
        checkpoint = Checkpoint(name, found)
        match found.kind:
            case "python":
                checkpoint.reason = "it is handed over in Python"
                if not python_objects:
                    notes.problem(
                        path, '"python" stands for a module handed over to attar.distill_models; name a model here.'
                    )
            case "timm":
                checkpoint.reason = "timm fetches it from the Hub; its size is known then"
            case "hub":
                checkpoint.folder = _cached(found.name, revision)
                if checkpoint.folder is None:
                    checkpoint.reason = "it is on the Hub; its size is known once it is fetched"
            case _:
                checkpoint.folder = found.path
        if checkpoint.folder is not None:
            _read(checkpoint, path, notes, trust_remote_code)
        return checkpoint
    return Checkpoint(name, reason="it was not found")


def _read(checkpoint: Checkpoint, path: Path, notes: Notes, trust_remote_code: bool) -> None:
    folder = cast("FilePath", checkpoint.folder)
    if folder.suffix == ".gguf" and folder.is_file():
        _gguf(checkpoint, read_header(folder))
        return
    if folder.is_file():
        notes.problem(path, f"{folder} is a file. Name the model's folder (with config.json).")
        checkpoint.reason = "it is a file"
        return
    config = _json(folder / "config.json")
    if config is None:
        notes.problem(path, f"{folder} is no model folder: config.json is absent or not a JSON object.")
    else:
        checkpoint.config = config
        _remote_code(config, path, notes, trust_remote_code)
    _weights(checkpoint, folder, path, notes)


def _gguf(checkpoint: Checkpoint, header: Header) -> None:
    """Sizes of a GGUF file, under the names that a Transformers configuration has for them."""
    checkpoint.header = header
    told = {name: header.own(key) for name, key in _GGUF_FIELDS.items()}
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    checkpoint.config = {
        "model_type": header.architecture,
        "architectures": [f"{header.architecture}ForCausalLM"],
        **{name: value for name, value in told.items() if value is not None},
        "vocab_size": shapes.get("token_embd.weight", (None,))[0],
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    checkpoint.params = sum(math.prod(shape) for shape in shapes.values())


def _remote_code(config: dict[str, Any], path: Path, notes: Notes, trusted: bool) -> None:
    model_type = str(config.get("model_type"))
    known = model_types()
    native = known is None or model_type in known
    if "auto_map" in config and not trusted:
        if native:
            notes.warn(path, "the model brings its own Python code; it is not run, Transformers' own class is used.")
        else:
            notes.problem(
                path,
                f'this model ("{model_type}") runs Python code that comes with it. Read that code; to run it, set '
                f"{path[0]}.trust_remote_code: true.",
            )
    elif not native and not trusted and "architecture" not in config:
        near = did_you_mean(model_type, known or ())
        notes.problem(
            path, f'the installed Transformers does not know the model_type "{model_type}" of config.json.{near}'
        )


def _weights(checkpoint: Checkpoint, folder: FilePath, path: Path, notes: Notes) -> None:
    index = _json(folder / "model.safetensors.index.json")
    named = set(cast("dict[str, str]", (index or {}).get("weight_map", {})).values())
    files = [folder / name for name in sorted(named)] or sorted(folder.glob("*.safetensors"))
    pickles = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if not files:
        if pickles:
            checkpoint.reason = "its weights are a pickle, which is not opened here"
            notes.warn(
                path,
                f"{pickles[0]} is a pickle, which can run code when it is loaded; only tensors are read from it, "
                "else it is refused. If you trust it, convert it: AutoModel.from_pretrained(DIR).save_pretrained(NEW).",
            )
        else:
            checkpoint.reason = "it has no weights"
            notes.problem(path, f"{folder} has no weights: neither *.safetensors nor pytorch_model.bin.")
        return
    total = 0
    for file in files:
        header = _header(file)
        if isinstance(header, str):
            notes.problem(path, f"{file}: {header} Fetch it again.")
            checkpoint.reason = "its weights cannot be read"
            return
        for name, tensor in header.items():
            shape = tuple(int(size) for size in tensor["shape"])
            if str(tensor["dtype"]).startswith(_FLOATS):
                checkpoint.shapes[name] = shape
                total += math.prod(shape)
    checkpoint.params = total


def _header(file: FilePath) -> dict[str, Any] | str:
    """The header of a safetensors file (8 bytes of length, then JSON), or what is wrong with the file."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else _MAX_HEADER + 1
            if length > min(size, _MAX_HEADER):
                return "is not a safetensors file."
            header = cast("dict[str, Any]", json.loads(stream.read(length)))
        header.pop("__metadata__", None)
        end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except FileNotFoundError:
        return "this file of the index is missing."
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its header is damaged."
    return header if size >= 8 + length + end else f"is cut short: {size:,} bytes, {8 + length + end:,} were written."


def _cached(name: str, revision: str | None) -> FilePath | None:
    """A Hub model's folder in the local cache, if it was fetched before."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    hub = FilePath(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    repository = hub / f"models--{name.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    folder = None if commit is None else repository / "snapshots" / commit
    return folder if folder is not None and (folder / "config.json").is_file() else None


def _json(file: FilePath) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", content) if isinstance(content, dict) else None
