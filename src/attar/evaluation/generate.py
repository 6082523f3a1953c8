"""What a language model writes: greedy completions of prompts, several at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from attar.tasks.base import Processor

_TOGETHER = 16
"""Prompts a batch."""


def complete(
    model: nn.Module, processor: Processor, prompts: Sequence[Sequence[int]], *, longest: int, device: str = "cpu"
) -> list[str]:
    """What the model writes after each prompt (token ids), its likeliest token each time; in the prompts' order.

    It ends with the end token, which is not part of the text, or after `longest` tokens. Prompts of like length are
    batched, padded on the left. The model is left in the mode it came in.
    """
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    written = [""] * len(prompts)
    was_training = model.training
    model.to(device).eval()
    try:
        for start in range(0, len(order), _TOGETHER):
            chosen = order[start : start + _TOGETHER]
            width = max(len(prompts[at]) for at in chosen)
            ids = torch.full((len(chosen), width), int(processor.pad_token_id))
            mask = torch.zeros_like(ids)
            for row, at in enumerate(chosen):
                ids[row, width - len(prompts[at]) :] = torch.tensor(list(prompts[at]))
                mask[row, width - len(prompts[at]) :] = 1
            made = cast("Any", model).generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=longest, do_sample=False,
                pad_token_id=processor.pad_token_id, temperature=None, top_p=None, top_k=None,
            )  # fmt: skip
            for at, tokens in zip(chosen, made[:, width:].tolist(), strict=True):
                written[at] = processor.decode(tokens, skip_special_tokens=True)
    finally:
        model.train(was_training)
    return written
