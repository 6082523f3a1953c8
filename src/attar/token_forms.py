"""What is stored of a language model's answer to a token, by the recipe's `teacher.targets`: made and packed.

Joins the objectives' way of cutting logits down with the codec of the store. Shape letters: R tokens, V outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor

from attar.objectives.chance import row_keys, uniforms
from attar.objectives.sparse import top_k
from attar.objectives.threshold_sampling import threshold_targets_at
from attar.recipe.targets import SampledTargetsSpec, TargetsSpec, TopKTargetsSpec
from attar.signals import Few
from attar.teachers.token_codec import DRAW_BITS, LIST_BITS, Draws, Lists, pack_draws, pack_lists
from attar.teachers.token_labelling import Form


@dataclass(frozen=True)
class SampledForm:
    """Kept and drawn tokens (see `threshold_sampling`)."""

    spec: SampledTargetsSpec

    def take(self, logits: Tensor, keys: Tensor) -> Draws:
        """As `Form.take`: a number of its own decides each token's draw."""
        few = threshold_targets_at(
            _tempered(logits, self.spec), _numbers(keys, "draw", 1)[:, 0], self.spec.threshold,
            most=math.ceil(1.0 / self.spec.threshold) + 1,
        )  # fmt: skip
        return Draws(**_arrays(few))

    def pack(self, taken: Lists | Draws, keys: Tensor, starts: np.ndarray) -> dict[str, np.ndarray]:
        """As `Form.pack`: which way a weight is rounded hangs on the token's key, too."""
        draws = cast("Draws", taken)
        numbers = _numbers(keys, "round", draws.token_ids.shape[1] + 1).numpy()
        return pack_draws(draws, numbers, bits=DRAW_BITS, starts=starts)


@dataclass(frozen=True)
class TopKForm:
    """The likeliest tokens and a tail."""

    spec: TopKTargetsSpec

    def take(self, logits: Tensor, keys: Tensor) -> Lists:
        """As `Form.take`; nothing is left to chance."""
        return Lists(**_arrays(top_k(_tempered(logits, self.spec), min(self.spec.k, logits.shape[-1]))))

    def pack(self, taken: Lists | Draws, keys: Tensor, starts: np.ndarray) -> dict[str, np.ndarray]:
        """As `Form.pack`."""
        return pack_lists(cast("Lists", taken), bits=LIST_BITS, starts=starts)


def form_of(spec: TargetsSpec) -> Form:
    """The form that a recipe asks for."""
    return SampledForm(spec) if isinstance(spec, SampledTargetsSpec) else TopKForm(spec)


def written_by(spec: TargetsSpec) -> dict[str, Any]:
    """What of a form shapes the bytes of a store: for its key."""
    bits = DRAW_BITS if isinstance(spec, SampledTargetsSpec) else LIST_BITS
    return {**spec.model_dump(mode="json"), "bits": bits}


def read_by(facts: dict[str, Any]) -> dict[str, Any]:
    """The recipe's part of what `written_by` gave."""
    return {name: value for name, value in facts.items() if name != "bits"}


def _tempered(logits: Tensor, spec: TargetsSpec) -> Tensor:
    logits = logits.cpu() if logits.device.type == "mps" else logits  # which has no float64
    return logits if spec.temperature == 1.0 else logits / spec.temperature


def _numbers(keys: Tensor, name: str, count: int) -> Tensor:
    return uniforms(row_keys(keys.cpu() if keys.device.type == "mps" else keys, seed=0, name=name, progress=0.0), count)


def _arrays(few: Few) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy() for name, value in few._asdict().items()}
