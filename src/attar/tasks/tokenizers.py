"""The tokenizer of a model folder, made ready for batches: it can pad, and knows how many positions its model has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig, AutoTokenizer

from attar.errors import TeacherError
from attar.tasks.base import Processor

_ROBERTA_LIKE = "roberta"


def load_tokenizer(folder: str | Path, *, trust_remote_code: bool = False, revision: str | None = None) -> Processor:
    """The tokenizer of a model folder (or Hub name); its `model_max_length` is lowered to the positions that the model
    beside it has, and a tokenizer without padding token pads with its end token. Raises TeacherError.
    """
    where: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision or "main"}
    try:
        tokenizer = cast("Any", AutoTokenizer.from_pretrained(str(folder), **where))
    except Exception as error:  # Transformers and the Hub client raise many unrelated types
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TeacherError(f"{folder}: no tokenizer can be loaded: {cause}. Check the name or the folder.") from error
    positions = _positions(folder, where)
    return ready(tokenizer, str(folder), positions)


def ready(tokenizer: Any, name: str, positions: int | None) -> Processor:
    """A tokenizer that can pad, with `model_max_length` at most `positions`. Raises TeacherError."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise TeacherError(f"{name}: the tokenizer has neither a padding nor an end token; rows cannot be batched.")
        tokenizer.pad_token = tokenizer.eos_token
    if positions is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


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
