"""What the teacher writes after prompts; of several teachers each writes to the rows that are its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from attar.evaluation.written import write_answers
from attar.ground import Ground
from attar.tasks.causal_lm import CausalLM


def write_as_taught(ground: Ground, task: CausalLM, rows: Dataset) -> NDArray[Any]:
    """A record a row, as `write_answers` makes them. Teachers that are mixed write nothing: the plan refuses it."""
    assert ground.teacher is not None, "a language model's teacher is a model"
    if ground.routing is None:
        return write_answers(ground.teacher.core, ground.processor, task, rows, device=ground.device)
    route, members = ground.routing.of(rows), list(ground.teacher.members.values())
    owns = {number: np.flatnonzero(route == number) for number in np.unique(route).tolist()}
    each = {
        number: write_answers(members[number].core, ground.processor, task, rows.select(own), device=ground.device)
        for number, own in owns.items()
    }
    widest = max(each.values(), key=lambda one: one.dtype["text"].itemsize)
    found = np.empty(len(rows), dtype=widest.dtype)
    for number, own in owns.items():
        found[own] = each[number].astype(widest.dtype)
    return found
