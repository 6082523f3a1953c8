"""Text classification: single texts or pairs; one label, several labels, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from attar.errors import PlanError
from attar.hashing import hash_bytes
from attar.recipe.task import TextClassificationSpec
from attar.tasks.base import Encoded, Problem, Processor
from attar.tasks.heads import METRICS, build_with_head, head_fields, label_array, load_with_head
from attar.tasks.long_texts import shortened
from attar.tasks.padding import padded
from attar.tasks.tokenizers import load_tokenizer

_CHUNK = 8192
_SHOWN_CHARACTERS = 1000


class TextClassification:
    """The task with its label names; see `attar.tasks.base.Task`. The processor is a Transformers tokenizer."""

    pipeline = "text-classification"

    def __init__(self, spec: TextClassificationSpec, labels: tuple[str, ...]) -> None:
        self.spec = spec
        self.labels = labels
        self.problem: Problem = spec.problem
        self.metric: str = METRICS[spec.problem] if spec.metric == "auto" else spec.metric

    def load_processor(
        self, folder: str | Path, *, trust_remote_code: bool = False, revision: str | None = None
    ) -> Processor:
        """The tokenizer, as `load_tokenizer` makes it. Raises TeacherError."""
        return load_tokenizer(folder, trust_remote_code=trust_remote_code, revision=revision)

    def load_model(
        self,
        folder: str | Path,
        *,
        trust_remote_code: bool = False,
        revision: str | None = None,
        new_head: bool = False,
    ) -> nn.Module:
        """A sequence classifier in eval mode, float32; `new_head` puts a fresh head for this task's labels on its
        body.
        """
        fields = head_fields(self.labels, self.problem) if new_head else None
        model = load_with_head(
            AutoModelForSequenceClassification, folder, fields, trust_remote_code=trust_remote_code, revision=revision
        )
        config = cast("Any", model.config)
        if config.pad_token_id is None:
            config.pad_token_id = config.eos_token_id
        return model

    def build_model(self, config: dict[str, Any]) -> nn.Module:
        """An untrained sequence classifier for this task's labels, in eval mode."""
        return build_with_head(AutoModelForSequenceClassification, config, head_fields(self.labels, self.problem))

    def encode(self, rows: Dataset, processor: Processor) -> Encoded:
        """Token ids (and type ids where the tokenizer makes them), cut to `max_length` and to the model's positions.

        The arrays of one input are views of one buffer. Rows of any length work; `truncated` counts those that were
        cut.
        """
        limit = self._limit(processor)
        texts, pairs = self._texts(rows)
        buffers: dict[str, list[np.ndarray]] = {}
        lengths: list[np.ndarray] = []
        truncated = 0
        for start in range(0, len(texts), _CHUNK):
            sides = [
                shortened(side[start : start + _CHUNK], processor, limit) for side in (texts, pairs) if side is not None
            ]
            made = processor(*sides, truncation=True, max_length=limit, return_attention_mask=False)
            lengths.append(np.array([len(ids) for ids in made["input_ids"]], dtype=np.int64))
            truncated += _cut_rows(made, lengths[-1], limit)
            for name, lists in made.items():
                buffers.setdefault(name, []).append(np.fromiter(chain.from_iterable(lists), np.int64))
        if processor.is_fast:
            processor.backend_tokenizer.no_truncation()
        sizes = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)
        ends = np.cumsum(sizes)[:-1]
        flat = {name: np.concatenate(parts) for name, parts in buffers.items()} or {"input_ids": np.zeros(0, np.int64)}
        return Encoded(
            inputs={name: np.split(buffer, ends) if len(sizes) else [] for name, buffer in flat.items()},
            lengths=sizes,
            labels=label_array(rows, self.problem, len(self.labels)),
            truncated=truncated,
        )

    def batch(self, encoded: Encoded, rows: Sequence[int] | np.ndarray, processor: Processor) -> dict[str, Tensor]:
        """int64 [N, T] each, padded to the longest row of the batch on the tokenizer's side, with `attention_mask`
        where the tokenizer's models read one.
        """
        return padded(
            encoded,
            rows,
            fill={"input_ids": int(processor.pad_token_id), "token_type_ids": int(processor.pad_token_type_id)},
            left=processor.padding_side == "left",
            mask="attention_mask" in processor.model_input_names,
        )

    def content_keys(self, rows: Dataset) -> list[str]:
        """Hash of the text, or of both texts of a pair, exactly as they are."""
        texts, pairs = self._texts(rows)
        if pairs is None:
            return [hash_bytes(text.encode()) for text in texts]
        return [hash_bytes(text.encode(), pair.encode()) for text, pair in zip(texts, pairs, strict=True)]

    def example(self, row: dict[str, Any]) -> dict[str, str]:
        """The text (of a pair: both, on two lines), shortened for people."""
        parts = [str(row[name]) for name in ("text", "text_pair") if name in row]
        return {"text": "\n".join(p if len(p) <= _SHOWN_CHARACTERS else p[:_SHOWN_CHARACTERS] + "…" for p in parts)}

    def _texts(self, rows: Dataset) -> tuple[list[str], list[str] | None]:
        names = ["text"] if self.spec.text_pair is None else ["text", "text_pair"]
        columns = cast("dict[str, list[str]]", rows.select_columns(names).with_format(None)[:])
        return columns["text"], columns.get("text_pair")

    def _limit(self, processor: Processor) -> int:
        limit = min(self.spec.max_length, int(processor.model_max_length))
        pair = self.spec.text_pair is not None
        special = int(processor.num_special_tokens_to_add(pair=pair))
        if limit <= special + int(pair):
            raise PlanError(
                f"task.max_length: {limit} tokens leave no room for text, as the tokenizer adds {special} of its own. "
                f"Set at least {special + 1 + int(pair)}."
            )
        return limit


def _cut_rows(made: Any, lengths: np.ndarray, limit: int) -> int:
    """Rows that were cut; for a tokenizer without Rust backend an upper bound, rows as long as the limit."""
    if made.encodings is None:
        return int((lengths >= limit).sum())
    return sum(bool(encoding.overflowing) for encoding in made.encodings)
