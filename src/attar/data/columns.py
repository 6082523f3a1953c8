"""From a raw split to checked rows in the one form that tasks read: `text` (`text_pair`), `image`, or of language
models `text` (`prompt`) or `messages`; and `label`, `origin`, `slice`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from datasets.table import InMemoryTable

from attar.data.chats import written_chats
from attar.data.images import decoded, pixel_key, stored_images
from attar.data.json_answers import json_answers
from attar.data.labels import NO_LABEL
from attar.data.overlap import text_key
from attar.data.raw import ArrowColumn, RawSplit, describe_rows
from attar.errors import DataError
from attar.hashing import hash_bytes, hash_value
from attar.recipe.task import CausalLMSpec, ImageClassificationSpec, TaskSpec

Origin = Literal["train", "augmented", "unlabelled"]
"""Where a row comes from: the data itself (any split), an augmentation, or a source without labels."""


@dataclass(frozen=True)
class Rows:
    """Rows of one split: the canonical dataset, and beside it the labels (as in `Labels`) and a key of each row's
    input.
    """

    dataset: Dataset
    labels: np.ndarray
    keys: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, positions: np.ndarray) -> Rows:
        """Some rows, in the order of `positions`."""
        if len(positions) == len(self) and bool((positions == np.arange(len(self))).all()):
            return self
        return replace(
            self,
            dataset=self.dataset.select(positions),
            labels=self.labels[positions],
            keys=[self.keys[i] for i in positions],
        )

    def hash(self) -> str:
        """Hash of inputs, labels, origins and slices, in order."""
        parts = [np.ascontiguousarray(self.labels).tobytes()]
        for name in self.dataset.column_names:
            if name == "image":
                parts.append(hash_value(self.keys).encode())
            elif name != "label":
                parts.append(hash_value(column(self.dataset, name)).encode())
        return hash_bytes(*parts)


def column(dataset: Dataset, name: str) -> list[Any]:
    """A column of a dataset as Python values; images as `{bytes, path}`."""
    return RawSplit("", dataset).values(name)


def read_rows(raw: RawSplit, task: TaskSpec, labels: np.ndarray, base: Path | None, origin: Origin = "train") -> Rows:
    """Check a raw split's inputs and give them their canonical columns. Raises DataError naming split, row and value.

    A row's slice is "" where the split lacks the column and comes from a source without labels.
    """
    slices = _slices(raw, task, origin)
    if isinstance(task, ImageClassificationSpec):
        raw.require(task.image, "task.image")
        images = stored_images(raw, task.image, base)
        keys = [pixel_key(pixels) for pixels in decoded(images, lambda row: f"{raw.place}, row {row}")]
        return Rows(canonical({"image": images}, labels, origin, slices), labels, keys)
    if isinstance(task, CausalLMSpec):
        return _sequences(raw, task, labels, origin, slices)
    texts = _texts(raw, task.text, "task.text")
    if task.text_pair is None:
        return text_rows(texts, None, labels, origin, slices)
    return text_rows(texts, _texts(raw, task.text_pair, "task.text_pair"), labels, origin, slices)


def _slices(raw: RawSplit, task: TaskSpec, origin: Origin) -> list[str] | None:
    if task.slice_by is None:
        return None
    if origin == "train":
        raw.require(task.slice_by, "task.slice_by")
    has = task.slice_by in raw.columns
    return [str(v) for v in raw.values(task.slice_by)] if has else [""] * len(raw)


def text_rows(
    texts: list[str], pairs: list[str] | None, labels: np.ndarray, origin: Origin, slices: list[str] | None
) -> Rows:
    """Rows of checked texts."""
    if pairs is None:
        return Rows(canonical({"text": texts}, labels, origin, slices), labels, [text_key(text) for text in texts])
    keys = [text_key(text, pair) for text, pair in zip(texts, pairs, strict=True)]
    return Rows(canonical({"text": texts, "text_pair": pairs}, labels, origin, slices), labels, keys)


def _sequences(raw: RawSplit, task: CausalLMSpec, labels: np.ndarray, origin: Origin, slices: list[str] | None) -> Rows:
    """Rows of a language model: a text, a prompt with its answer, or a chat (as JSON)."""
    if task.messages is not None:
        raw.require(task.messages, "task.messages")
        columns = {"messages": written_chats(raw, task.messages)}
    elif task.prompt is not None and task.json_fields is not None:
        columns = {"prompt": _texts(raw, task.prompt, "task.prompt"), "text": json_answers(raw, task)}
    else:
        columns = {name: _texts(raw, column, f"task.{name}") for name, column in task.columns.items()}
        if task.prompt is not None:
            _require_answers(raw, task.text, columns["text"])
    keys = [text_key(*texts) for texts in zip(*columns.values(), strict=True)]
    return Rows(canonical(columns, labels, origin, slices), labels, keys)


def read_prompts(raw: RawSplit, task: CausalLMSpec) -> Rows:
    """Prompts of a language model that nobody has answered yet: `text` is empty, and the key is the prompt's alone."""
    prompts, labels = _texts(raw, str(task.prompt), "task.prompt"), np.full(len(raw), NO_LABEL, dtype=np.int64)
    columns = {"prompt": prompts, "text": [""] * len(raw)}
    slices = _slices(raw, task, "unlabelled")
    return Rows(canonical(columns, labels, "unlabelled", slices), labels, [text_key(prompt) for prompt in prompts])


def _require_answers(raw: RawSplit, name: str, answers: list[str]) -> None:
    empty = [(row, answer) for row, answer in enumerate(answers) if not answer.strip()]
    if empty:
        raise DataError(
            f'{raw.place}: column "{name}" must hold an answer to each prompt (task.text), got {describe_rows(empty)}. '
            "Fill them in or remove the rows: there is nothing to learn from an empty answer."
        )


def _texts(raw: RawSplit, name: str, setting: str) -> list[str]:
    raw.require(name, setting)
    values = raw.values(name)
    wrong = [(row, value) for row, value in enumerate(values) if not _is_text(value)]
    if wrong:
        raise DataError(
            f'{raw.place}: column "{name}" must hold text, got {describe_rows(wrong)}. Fill the text in or remove the '
            f"row; if another column holds the text, set {setting}."
        )
    return cast("list[str]", values)


def _is_text(value: object) -> bool:
    """Text that can be written as UTF-8 (JSON can spell lone surrogates, which cannot)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def canonical(
    inputs: Mapping[str, list[str] | ArrowColumn], labels: np.ndarray, origin: Origin, slices: Sequence[str] | None
) -> Dataset:
    """The dataset with canonical columns: inputs, `label`, `origin`, and `slice` where `slices` is given."""
    features: dict[str, Any] = {name: ImageFeature() if name == "image" else Value("string") for name in inputs}
    columns: dict[str, Any] = {name: _strings(cells) for name, cells in inputs.items()}
    features["label"] = Value("int64") if labels.dtype == np.int64 else Value("float32")
    if labels.ndim == 2:
        features["label"] = List(Value("float32"))
    columns["label"] = pa.array(list(labels) if labels.ndim == 2 else labels, type=_label_type(labels))
    for name, values in (("origin", [origin] * len(labels)), ("slice", slices)):
        if values is not None:
            features[name] = Value("string")
            columns[name] = pa.array(values, type=pa.string())
    schema = Features(features)
    return Dataset(InMemoryTable(pa.table(columns, schema=schema.arrow_schema)))


def _strings(cells: list[str] | ArrowColumn) -> ArrowColumn:
    return pa.chunked_array(list(_chunks(cells)), type=pa.string()) if isinstance(cells, list) else cells


def _chunks(cells: list[str], size: int = 65536) -> Iterator[Any]:
    """Chunks far below the 2 GB that one Arrow text array holds."""
    return (pa.array(cells[start : start + size], type=pa.string()) for start in range(0, len(cells), size))


def _label_type(labels: np.ndarray) -> Any:
    if labels.ndim == 2:
        return pa.list_(pa.float32())
    return pa.int64() if labels.dtype == np.int64 else pa.float32()
