"""Language modelling: plain texts, prompts with answers, or chats; each learned token is told from those before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from attar.errors import DataError, PlanError
from attar.hashing import hash_bytes
from attar.recipe.task import CausalLMSpec
from attar.tasks.base import Encoded, Problem, Processor
from attar.tasks.heads import build_with_head, load_with_head
from attar.tasks.padding import padded
from attar.tasks.sequences import Sequences
from attar.tasks.tokenizers import load_tokenizer

_SHOWN_CHARACTERS = 1000
Message = dict[str, str]
"""`role` and `content`."""


class Segment(NamedTuple):
    """A stretch of text that is cut into tokens by itself."""

    text: str
    learned: bool


class CausalLM:
    """Next-token prediction; see `attar.tasks.base.Task`. The processor is a Transformers tokenizer.

    A prompt and what answers it are cut into tokens apart, as they are when a model generates: its answer begins with
    a token of its own. The last token of a plain text, and of an answer without a chat template, is the end token.
    """

    pipeline = "text-generation"
    labels: tuple[str, ...] = ()
    problem: Problem = "single_label"

    def __init__(self, spec: CausalLMSpec) -> None:
        self.spec = spec
        self.metric: str = "exact_match" if spec.metric == "exact_match" else "perplexity"

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
        """A language model in eval mode, float32, with its own head: `new_head` changes nothing."""
        return load_with_head(
            AutoModelForCausalLM, folder, None, trust_remote_code=trust_remote_code, revision=revision
        )

    def build_model(self, config: dict[str, Any]) -> nn.Module:
        """An untrained language model in eval mode."""
        return build_with_head(AutoModelForCausalLM, config, {})

    def encode(self, rows: Dataset, processor: Processor) -> Sequences:
        """Token ids, cut to `max_length` and to the model's positions. A longer plain text becomes several sequences,
        each beginning with the token that the one before ends with; `truncated` counts prompts with answers, and
        chats, that were cut.
        """
        limit = self.limit(processor)
        sequences: list[np.ndarray] = []
        learned: list[np.ndarray] = []
        owners: list[int] = []
        truncated = 0
        for row, (whole, marked) in enumerate(self.read(rows, processor)):
            pieces = _pieces(len(whole), limit) if self.is_plain else [slice(0, limit)]
            truncated += not self.is_plain and len(whole) > limit
            for piece in pieces:
                sequences.append(whole[piece])
                learned.append(marked[piece] & (np.arange(len(whole[piece])) > 0))
                owners.append(row)
        return Sequences(
            inputs={"input_ids": sequences},
            lengths=np.array([len(one) for one in sequences], dtype=np.int64),
            labels=np.array([int(one.sum()) for one in learned], dtype=np.int64),
            truncated=truncated,
            learned=learned,
            owners=np.array(owners, dtype=np.int64),
            taught=self.taught(rows, owners),
        )

    def read(self, rows: Dataset, processor: Processor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each row all its tokens, int64 [T], and which of them are to be learned, bool [T]; nothing is cut."""
        texts = list(self._segments(rows, processor))
        flat = [segment.text for row in texts for segment in row]
        ids = iter(_tokens(flat, processor, special=self.is_plain))
        end = processor.eos_token_id
        for segments in texts:
            parts = [next(ids) for _ in segments]
            marks = [np.full(len(part), segment.learned) for part, segment in zip(parts, segments, strict=True)]
            if self._ends(processor) and end is not None and not (len(parts[-1]) and parts[-1][-1] == end):
                parts.append([end])
                marks.append(np.ones(1, dtype=bool))
            yield np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]), np.concatenate(marks)

    def limit(self, processor: Processor) -> int:
        """Tokens of the longest sequence: `max_length`, or the model's positions where these are fewer."""
        return min(self.spec.max_length, int(processor.model_max_length))

    def taught(self, rows: Dataset, owners: list[int]) -> np.ndarray | None:
        """Which sequences are prompts that the teacher answered."""
        if self.spec.prompt is None or "origin" not in rows.column_names:
            return None
        taught = np.array([origin == "unlabelled" for origin in rows["origin"]], dtype=bool)
        return taught[owners] if taught.any() else None

    def batch(self, encoded: Encoded, rows: Sequence[int] | np.ndarray, processor: Processor) -> dict[str, Tensor]:
        """int64 [N, T] each, padded on the right to the longest sequence of the batch, with `attention_mask`."""
        return padded(encoded, rows, fill={"input_ids": int(processor.pad_token_id)}, left=False, mask=True)

    def content_keys(self, rows: Dataset) -> list[str]:
        """Hash of all texts of a row, exactly as they are."""
        columns = _columns(rows)
        return [hash_bytes(*(text.encode() for text in texts)) for texts in zip(*columns.values(), strict=True)]

    def example(self, row: dict[str, Any]) -> dict[str, str]:
        """The text, or prompt and answer, or the chat's messages on lines of their own; shortened for people."""
        if "messages" in row:
            parts = [f"{message['role']}: {message['content']}" for message in read_chat(row["messages"])]
        else:
            parts = [str(row[name]) for name in ("prompt", "text") if name in row]
        text = "\n".join(parts)
        return {"text": text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"}

    def texts(self, rows: Dataset, processor: Processor) -> list[str]:
        """Every stretch of text that is cut into tokens by itself."""
        return [segment.text for row in self._segments(rows, processor) for segment in row]

    def prompt_ids(self, text: str, processor: Processor) -> list[int]:
        """Tokens that an answer to `text` follows: the text as it is, or as what the user says in a chat."""
        if self.is_plain:
            return _tokens([text], processor, special=True)[0]
        if self._templated(processor):
            text = _template([{"role": "user", "content": text}], processor, 0, prompt=True)
        return _tokens([text], processor, special=False)[0]

    @property
    def is_plain(self) -> bool:
        """Are rows plain texts, of which every token is learned?"""
        return self.spec.messages is None and self.spec.prompt is None

    def _templated(self, processor: Processor) -> bool:
        """Does the tokenizer's chat template write the rows? Raises PlanError where it has to, and there is none."""
        if self.is_plain or self.spec.template == "never":
            return False
        if self.spec.template == "always" and processor.chat_template is None:
            raise PlanError(
                f"task.template: always, but the tokenizer of {processor.name_or_path or 'this model'} has no chat "
                "template. Put chat_template.jinja beside it, or set task.template to auto or never."
            )
        return processor.chat_template is not None

    def _ends(self, processor: Processor) -> bool:
        """Is the end token ours to write? A template writes its own."""
        return not self._templated(processor)

    def _segments(self, rows: Dataset, processor: Processor) -> Iterator[list[Segment]]:
        """The stretches of each row, in order."""
        columns = _columns(rows)
        every = self.spec.learn == "all"
        for row, texts in enumerate(zip(*columns.values(), strict=True)):
            if self.is_plain:
                yield [Segment(texts[0], learned=True)]
                continue
            given = dict(zip(columns, texts, strict=True))
            chat = read_chat(given["messages"]) if "messages" in given else _as_chat(given["prompt"], given["text"])
            parts = _rendered(chat, processor, row) if self._templated(processor) else _plain_chat(chat)
            yield [part._replace(learned=part.learned or every) for part in parts if part.text]


def _columns(rows: Dataset) -> dict[str, list[str]]:
    names = [name for name in ("messages", "prompt", "text") if name in rows.column_names]
    return cast("dict[str, list[str]]", rows.select_columns(names).with_format(None)[:])


def read_chat(line: str) -> list[Message]:
    """The messages of a chat, which the data holds as JSON."""
    return cast("list[Message]", json.loads(line))


def _as_chat(prompt: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _plain_chat(chat: list[Message]) -> list[Segment]:
    """Without a template: the messages' words, one after another."""
    return [Segment(message["content"], message["role"] == "assistant") for message in chat]


def _rendered(chat: list[Message], processor: Processor, row: int) -> list[Segment]:
    """A chat as the tokenizer's template writes it; what the assistant says, its end mark too, is learned.

    Raises DataError where the template does not write a chat's beginning as it writes the whole: then nobody can say
    which tokens are the assistant's.
    """
    ends = [number for number, message in enumerate(chat) if message["role"] == "assistant"]
    borders, texts = [0], [""]
    for number in ends:
        for part, prompt in ((chat[:number], True), (chat[: number + 1], False)):
            text = _template(part, processor, row, prompt=prompt)
            texts.append(text)
            borders.append(len(text))
    whole = texts[-1]
    broken = next((text for text in texts if not whole.startswith(text)), None)
    if broken is not None or borders != sorted(borders):
        raise DataError(
            f"row {row}: the chat template writes the first messages of this chat otherwise once more follow, so the "
            "assistant's tokens cannot be told. Set task.template: never, or end each chat with its first answer."
        )
    pieces = [whole[start:stop] for start, stop in pairwise(borders)]
    return [Segment(piece, learned=at % 2 == 1) for at, piece in enumerate(pieces)]


def _template(chat: list[Message], processor: Processor, row: int, *, prompt: bool) -> str:
    try:
        return str(processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt))
    except Exception as error:  # a template is a program of its author's
        raise DataError(
            f"row {row}: the tokenizer's chat template refuses this chat: {error}. Correct the roles' order, or set "
            "task.template: never."
        ) from error


def _tokens(texts: list[str], processor: Processor, *, special: bool) -> list[list[int]]:
    """Token ids of each text; `special`: with the tokens that the tokenizer puts around a whole text."""
    if not texts:
        return []
    made = processor(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
    return cast("list[list[int]]", made["input_ids"])


def _pieces(length: int, limit: int) -> list[slice]:
    """Cuts of at most `limit` tokens; neighbours share one, which the second reads and does not learn."""
    if limit < 2:
        raise PlanError(f"task.max_length: a sequence of {limit} token has nothing to learn. Set at least 2.")
    starts = range(0, max(length - 1, 1), limit - 1)
    return [slice(start, min(start + limit, length)) for start in starts]
