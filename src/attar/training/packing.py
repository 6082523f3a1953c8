"""Which models of a training read their batches packed; each is held to its own padded answers first."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attar.errors import PlanError
from attar.heads import TOLERANCE, body_states, core_of, evaluating
from attar.packing import packed, unpackable
from attar.recipe.training import TrainingSpec
from attar.tasks.base import Encoded, Processor, Task
from attar.tasks.sequences import Sequences
from attar.teachers.ensemble import models_of
from attar.training.rows import TrainingRows

_COMPARED = 4
"""Sequences on which a model is held to its padded answers: from the shortest to the longest."""


@contextmanager
def packing(spec: TrainingSpec, model: nn.Module, rows: TrainingRows, task: Task) -> Generator[bool]:
    """Let student and live teacher of a language model read batches packed inside the block, as `spec.packing` says.

    Yields whether all of them do. Raises PlanError where it is `packed` and one cannot.
    """
    if not isinstance(rows.student, Sequences) or spec.packing == "padded":
        yield False
        return
    sides: list[tuple[nn.Module, Encoded, Processor]] = [(model, rows.student, rows.processor)]
    if rows.live is not None:
        plain = replace(rows.live.encoded, route=None)
        sides += [(one, plain, rows.live.processor) for one in models_of(rows.live.model)]
    able: list[Any] = []
    for one, encoded, processor in sides:
        order = np.argsort(encoded.lengths, kind="stable")
        chosen = np.unique(np.linspace(0, len(order) - 1, _COMPARED).astype(np.int64))
        try:
            verify_packing(one, task.batch(encoded, order[chosen], processor))
        except PlanError:
            if spec.packing == "packed":
                raise
        else:
            able.append(core_of(one))
    with packed(able):
        yield len(able) == len(sides)


def verify_packing(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Ask a language model once about a padded batch and once about the same packed, without dropout and gradients.

    Raises PlanError where the last hidden states of a token differ by more than `attar.heads.TOLERANCE`, relative to
    the largest, or the model does not take packed batches at all.
    """
    core = core_of(model)
    device = next(model.parameters()).device
    given = {name: value.to(device) for name, value in inputs.items()}
    with torch.no_grad(), evaluating(model):
        alone, _ = body_states(model, given)
        with packed([core]):
            try:
                together, _ = body_states(model, given)
            except Exception as error:  # a model is a program of its authors
                raise PlanError(unpackable(core, f"{type(error).__name__}: {error}")) from error
    real = given["attention_mask"].bool()
    largest = (alone - together)[real].abs().max().item()
    allowed = TOLERANCE[alone.dtype] * alone[real].abs().max().item()
    if not largest <= allowed:  # NaN is refused, too
        why = f"its states differ by up to {largest:.3g} from those of each sequence alone, {allowed:.3g} is allowed"
        raise PlanError(unpackable(core, why))
