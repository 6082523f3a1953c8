"""What language models write as answers, against what the data answers: right or not, member by member, how long.

An answer is right if it is the data's: as JSON where the data's answer is an object or a list (the order of members and
spaces do not count, a member that stands twice makes it no JSON), else as text without spaces around. Shape letters:
N rows.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch import nn

from attar.evaluation.generate import complete
from attar.facts import WrittenFacts
from attar.hashing import canonical_json
from attar.tasks.base import Processor
from attar.tasks.causal_lm import CausalLM

Array = NDArray[Any]


def write_answers(
    model: nn.Module, processor: Processor, task: CausalLM, rows: Dataset, *, device: str = "cpu"
) -> np.ndarray:
    """A record a row [N]: `text`, `tokens` (int64) and `ended` (bool); see `Completion`. The model keeps its mode."""
    limit = min(task.spec.max_length, int(processor.model_max_length))
    prompts = [task.prompt_ids(str(prompt), processor)[: limit - 1] for prompt in rows["prompt"]]
    found = complete(model, processor, prompts, longest=task.spec.generation.max_tokens, device=device)
    width = max((len(one.text) for one in found), default=1)
    return np.array(
        [tuple(one) for one in found], dtype=[("text", f"U{max(width, 1)}"), ("tokens", "i8"), ("ended", "?")]
    )


def right_answers(rows: Dataset, written: Array) -> NDArray[np.bool_]:
    """Which rows [N] are answered as the data does, and to their end."""
    pairs = zip(rows["text"], written, strict=True)
    return np.array(
        [bool(one["ended"]) and same_answer(str(truth), str(one["text"])) for truth, one in pairs], dtype=bool
    )


def same_answer(truth: str, given: str) -> bool:
    """Is `given` the answer `truth`?"""
    wanted = read_json(truth)
    if not isinstance(wanted, dict | list):
        return truth.strip() == given.strip()
    found = read_json(given)
    return isinstance(found, dict | list) and canonical_json(found) == canonical_json(wanted)


def read_json(text: str) -> Any:
    """The value that a text writes as JSON, 1.0 and 1 alike; None where it is no JSON (and where it is `null`)."""
    try:
        return json.loads(text, object_pairs_hook=_members, parse_float=_number, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _NoJson("a member stands twice")
    return members


def _number(digits: str) -> float | int:
    value = float(digits)
    if not math.isfinite(value):
        raise _NoJson(f"{digits} is too large a number")
    return int(value) if value.is_integer() else value


def _refuse(name: str) -> Any:
    raise _NoJson(f"{name} is no number")


class _NoJson(ValueError):
    """Valid for Python's reader, and still no plain JSON."""


def written_facts(rows: Dataset, seeds: Sequence[Array], longest: int) -> WrittenFacts:
    """What is to be told of one model's answers, one array a training seed."""
    truths = [str(truth) for truth in rows["text"]]
    texts = [[str(text) for text in one["text"]] for one in seeds]
    objects = [isinstance(read_json(truth), dict | list) for truth in truths]
    valid: float | None = None
    if all(objects):
        valid = float(np.mean([isinstance(read_json(text), dict | list) for one in texts for text in one]))
    return WrittenFacts(
        mean_tokens=float(np.mean([one["tokens"].mean() for one in seeds])),
        longest=longest,
        cut=float(np.mean([1.0 - one["ended"].mean() for one in seeds])),
        valid_json=valid,
        f1=_f1_by_member(truths, texts) if all(objects) else {},
    )


def _f1_by_member(truths: Sequence[str], texts: Sequence[Sequence[str]]) -> dict[str, float]:
    """Of each member of the answers: F1 of the values below it, each with its place, over all rows and seeds."""
    hits, total = Counter[str](), Counter[str]()
    for seed in texts:
        for truth, text in zip(truths, seed, strict=True):
            wanted, given = (Counter(_values(read_json(one))) for one in (truth, text))
            for (member, _), count in (wanted & given).items():
                hits[member] += count
            for side in (wanted, given):
                for (member, _), count in side.items():
                    total[member] += count
    known = {member for truth in truths for member, _ in _values(read_json(truth))}
    return {member: 2 * hits[member] / total[member] for member in sorted(known)}


def _values(answer: Any) -> Iterator[tuple[str, str]]:
    """Each value of an object's members: the member, and the value with its place below it. Lists have no order."""
    if isinstance(answer, dict):
        for member, value in cast("dict[str, Any]", answer).items():
            yield from ((member, leaf) for leaf in _leaves(value))


def _leaves(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for name, inner in cast("dict[str, Any]", value).items():
                yield from (f"{canonical_json(name)}:{leaf}" for leaf in _leaves(inner))
        case list():
            for inner in cast("list[Any]", value):
                yield from _leaves(inner)
        case _:
            yield canonical_json(value)
