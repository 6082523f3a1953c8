"""An exported decoder at work: the prompt at once, then token by token through its cache, without torch.

Shape letters: N texts, T new tokens, P tokens of the past, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attar.export.decoder import PAST, POSITIONS, PRESENT
from attar.export.runtimes.onnx import open_session, tensor_type

Array = NDArray[Any]
Cache = dict[str, Array]
"""By the graph's name for it: keys or values of one layer [N, heads, P, width]."""


class DecoderRunner:
    """A session on the CPU. `inputs` and `outputs` are the graph's names, `runtime` says which onnxruntime runs it."""

    def __init__(self, file: Path, threads: int = 1) -> None:
        """Raises ExportError, MissingExtra."""
        self._session, self.runtime = open_session(file, threads)
        given = self._session.get_inputs()
        self.inputs: list[str] = [one.name for one in given]
        self.outputs: list[str] = [one.name for one in self._session.get_outputs()]
        self._stored = {
            one.name: (one.shape[1], one.shape[3], tensor_type(one.type)) for one in given if one.name.startswith(PAST)
        }

    def feed(self, ids: Array, mask: Array, past: Cache | None = None) -> dict[str, Array]:
        """All inputs of one call: `ids` int64 [N, T] that follow `past` (None: nothing), `mask` [N, P + T], 0 where a
        token is padding.
        """
        texts, width = ids.shape
        stored = past or {
            name: np.zeros((texts, heads, 0, size), dtype) for name, (heads, size, dtype) in self._stored.items()
        }
        places = np.maximum(mask.cumsum(-1) - 1, 0)[:, -width:]
        whole = {"input_ids": ids, "attention_mask": mask, POSITIONS: places, **stored}
        return {
            name: np.ascontiguousarray(value, None if name in stored else np.int64)
            for name, value in whole.items()
            if name in self.inputs
        }

    def __call__(self, ids: Array, mask: Array, past: Cache | None = None) -> tuple[Array, Cache]:
        """Logits float32 [N, T, V] of the new tokens, and the past of the next call."""
        logits, *present = self._session.run(self.outputs, self.feed(ids, mask, past))
        names = (name.replace(PRESENT, PAST, 1) for name in self.outputs[1:])
        return logits, dict(zip(names, present, strict=True))

    def write(self, prompts: Sequence[Sequence[int]], *, longest: int, ends: Collection[int]) -> list[list[int]]:
        """The tokens that the file puts after each prompt, one prompt at a time, its likeliest token each time.

        The last is one of `ends`, or the `longest`th.
        """
        return [self._write(prompt, longest, ends) for prompt in prompts]

    def _write(self, prompt: Sequence[int], longest: int, ends: Collection[int]) -> list[int]:
        written: list[int] = []
        new, past = np.array([list(prompt)], np.int64), None
        while len(written) < longest and (not written or written[-1] not in ends):
            mask = np.ones((1, len(prompt) + len(written)), np.int64)
            logits, past = self(new, mask, past)
            written.append(int(logits[0, -1].argmax()))
            new = np.array([written[-1:]], np.int64)
        return written

    def stepwise(self, ids: Array, first: int) -> Array:
        """Logits float32 [T, V] of one text [T]: the first tokens at once, each later one through the cache."""
        ones = np.ones((1, len(ids)), np.int64)
        logits, past = self(ids[None, :first], ones[:, :first])
        parts = [logits[0]]
        for at in range(first, len(ids)):
            logits, past = self(ids[None, at : at + 1], ones[:, : at + 1], past)
            parts.append(logits[0])
        return np.concatenate(parts)


class _Answer(NamedTuple):
    """As a model of Transformers answers."""

    logits: Tensor


class DecoderModule(nn.Module):
    """The file as a module that answers whole texts with `.logits` [N, T, V], and writes."""

    def __init__(self, runner: DecoderRunner, generation: Any = None) -> None:
        """`generation`: a GenerationConfig, which tells where the model stops."""
        super().__init__()
        self.runner = runner
        self.generation_config = generation

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> _Answer:
        """int64 [N, T] each."""
        logits, _ = self.runner(input_ids.cpu().numpy(), attention_mask.cpu().numpy())
        return _Answer(torch.from_numpy(logits))

    def write(self, prompts: Sequence[Sequence[int]], *, longest: int, ends: Collection[int]) -> list[list[int]]:
        """As the runner does."""
        return self.runner.write(prompts, longest=longest, ends=ends)
