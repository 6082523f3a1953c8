"""Text classification: single texts or pairs; one label, several labels, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from attar.errors import PlanError, TeacherError
from attar.hashing import hash_bytes
from attar.recipe.task import TextClassificationSpec
from attar.tasks.base import Encoded, Problem, Processor
from attar.tasks.heads import METRICS, build_with_head, head_fields, label_array, load_with_head
from attar.tasks.long_texts import shortened

_CHUNK = 8192
_ROBERTA_LIKE = "roberta"
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
        """The tokenizer; its `model_max_length` is lowered to the positions that the model beside it has, and a
        tokenizer without padding token pads with its end token. Raises TeacherError.
        """
        where: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision or "main"}
        try:
            tokenizer = cast("Any", AutoTokenizer.from_pretrained(str(folder), **where))
        except Exception as error:  # Transformers and the Hub client raise many unrelated types
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TeacherError(
                f"{folder}: no tokenizer can be loaded: {cause}. Check the name or the folder."
            ) from error
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token_id is None:
                raise TeacherError(
                    f"{folder}: the tokenizer has neither a padding nor an end token; rows cannot be batched."
                )
            tokenizer.pad_token = tokenizer.eos_token
        positions = _positions(folder, where)
        if positions is not None:
            tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
        return tokenizer

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
        chosen = np.asarray(rows, dtype=np.int64)
        lengths = encoded.lengths[chosen]
        width = int(lengths.max(initial=0))
        place = np.arange(width)
        left = processor.padding_side == "left"
        real = place >= (width - lengths)[:, None] if left else place < lengths[:, None]
        order = chosen.tolist()
        made: dict[str, Tensor] = {}
        for name, arrays in encoded.inputs.items():
            padded = np.full(real.shape, _padding(name, processor), dtype=np.int64)
            padded[real] = np.concatenate([arrays[row] for row in order]) if order else []
            made[name] = torch.from_numpy(padded)
        if "attention_mask" in processor.model_input_names:
            made["attention_mask"] = torch.from_numpy(real.astype(np.int64))
        return made

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


def _positions(folder: str | Path, where: dict[str, Any]) -> int | None:
    """How many tokens the model beside a tokenizer can place; None where it does not say, or no model is there."""
    try:
        config = cast("Any", AutoConfig.from_pretrained(str(folder), **where))
    except (OSError, ValueError):
        return None
    positions = cast("int | None", getattr(config, "max_position_embeddings", None))
    if positions is None or positions <= 0:
        return None
    # RoBERTa's positions start behind the padding id.
    offset = int(config.pad_token_id) + 1 if _ROBERTA_LIKE in str(config.model_type) else 0
    return positions - offset


def _cut_rows(made: Any, lengths: np.ndarray, limit: int) -> int:
    """Rows that were cut; for a tokenizer without Rust backend an upper bound, rows as long as the limit."""
    if made.encodings is None:
        return int((lengths >= limit).sum())
    return sum(bool(encoding.overflowing) for encoding in made.encodings)


def _padding(name: str, processor: Processor) -> int:
    match name:
        case "input_ids":
            return int(processor.pad_token_id)
        case "token_type_ids":
            return int(processor.pad_token_type_id)
        case _:
            return 0
