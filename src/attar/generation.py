"""What a language model writes after prompts, as token ids: the likeliest each time, or drawn.

A model here is one of Transformers' with `generate`; wrappers are seen through (see `core_of`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from attar.heads import core_of, evaluating
from attar.tasks.base import Encoded, Processor
from attar.tasks.padding import padded


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: logits over `temperature`, from the likeliest that make up `top_p` (1: from all)."""

    temperature: float
    top_p: float


def ends_of(model: nn.Module, processor: Processor) -> tuple[int, ...]:
    """Tokens that end a text, ascending: the tokenizer's end token, and those that the model's generation
    configuration names.
    """
    told = getattr(getattr(core_of(model), "generation_config", None), "eos_token_id", None)
    listed = cast("list[Any]", told if isinstance(told, list) else [told])
    return tuple(sorted({int(index) for index in (processor.eos_token_id, *listed) if index is not None}))


def alike(lengths: Sequence[int], together: int) -> list[list[int]]:
    """All numbers 0 to n - 1 in groups of at most `together`, prompts of like length in one; shortest first."""
    order = sorted(range(len(lengths)), key=lambda at: lengths[at])
    return [order[start : start + together] for start in range(0, len(order), together)]


def write(
    model: nn.Module,
    prompts: Sequence[Sequence[int] | np.ndarray],
    *,
    pad: int,
    ends: Sequence[int],
    longest: int,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """What follows each prompt (one token at least): ids up to and with the first of `ends`, or `longest` of them.

    One batch on the model's device, padded on the left, with a cache of keys and values; it gets smaller as answers
    end. Without `sampling` the likeliest token is taken; draws come from torch's random state. The model answers in
    eval mode, without gradients in which layers checkpoint nothing and keep the cache, and by these settings alone,
    whatever its own generation configuration adds; its modes are as before afterwards.
    """
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    flat = Encoded(
        inputs={"input_ids": [np.asarray(prompt, dtype=np.int64) for prompt in prompts]},
        lengths=lengths, labels=lengths, truncated=0,
    )  # fmt: skip
    made = padded(flat, np.arange(len(prompts)), fill={"input_ids": pad}, left=True, mask=True)
    core = core_of(model)
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling is not None:
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    ids, seen = (made[name].to(core.device) for name in ("input_ids", "attention_mask"))
    first, rows, cache = ids.shape[1], list(range(len(prompts))), None
    written: list[list[int]] = [[] for _ in prompts]
    pause = _Pause(first, torch.tensor(list(ends), dtype=ids.dtype, device=core.device))
    with evaluating(core), _plainly(core), torch.inference_mode():
        while rows:
            config = GenerationConfig(
                max_new_tokens=first + longest - ids.shape[1], pad_token_id=pad, eos_token_id=list(ends) or None,
                use_cache=True, return_dict_in_generate=True, **drawn,
            )  # fmt: skip
            found = core.generate(
                input_ids=ids, attention_mask=seen, cache=cache, generation_config=config,
                stopping_criteria=StoppingCriteriaList([pause]),
            )  # fmt: skip
            ids = found.sequences
            seen = nn.functional.pad(seen, (0, ids.shape[1] - seen.shape[1]), value=1)
            going = ~pause.have_ended(ids) & (ids.shape[1] < first + longest)
            for row, tokens, goes in zip(rows, ids[:, first:].tolist(), going.tolist(), strict=True):
                written[row] = tokens if goes else _ended(tokens, ends)
            kept = going.nonzero().squeeze(1)
            ids, seen, rows = ids[kept], seen[kept], [rows[at] for at in kept.tolist()]
            cache = found.cache if hasattr(found.cache, "batch_select_indices") else None
            if cache is not None:
                cache.batch_select_indices(kept)
    return written


class _Pause(StoppingCriteria):
    """Stops where a quarter of the batch has ended: the rest goes on without those, who would cost as much."""

    def __init__(self, first: int, ends: Tensor) -> None:
        self.first, self.ends = first, ends

    def have_ended(self, ids: Tensor) -> Tensor:
        """Bool [N]: the rows with an end token behind the prompt."""
        return torch.isin(ids[:, self.first :], self.ends).any(1)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # type: ignore[override]
        """Bool [N]: who stops; all or none, decided on the device, so that no step waits for it."""
        ended = self.have_ended(input_ids)
        return (4 * ended.sum() >= len(ended)).expand_as(ended)


def _ended(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """Up to and with the first end; what follows it is padding."""
    first = next((at for at, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: first + 1]


@contextmanager
def _plainly(model: Any) -> Generator[None]:
    """No generation settings of the model's own; they are back afterwards."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
