"""What language models write as answers, against what the data answers: right or not, member by member, how long.

An answer is right if it is the data's: as JSON where the data's answer is an object or a list (the order of members and
spaces do not count, a member that stands twice makes it no JSON), else as text without spaces around. Shape letters:
N rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch import nn

from attar.data.traces import read_json
from attar.evaluation.generate import complete
from attar.facts import WrittenFacts
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
    return wanted == read_json(given) if _is_structured(wanted) else truth.strip() == given.strip()


def _is_structured(read: list[Any] | None) -> bool:
    return read is not None and isinstance(read[0], dict | list)


def written_facts(rows: Dataset, seeds: Sequence[Array], longest: int) -> WrittenFacts:
    """What is to be told of one model's answers, one array a training seed."""
    truths = [read_json(str(truth)) for truth in rows["text"]]
    given = [[read_json(str(text)) for text in one["text"]] for one in seeds]
    structured = all(_is_structured(truth) for truth in truths)
    return WrittenFacts(
        mean_tokens=float(np.mean([one["tokens"].mean() for one in seeds])),
        longest=longest,
        cut=float(np.mean([1.0 - one["ended"].mean() for one in seeds])),
        valid_json=float(np.mean([_is_structured(one) for seed in given for one in seed])) if structured else None,
        f1=_f1_by_member(truths, given) if structured else {},
    )


def _f1_by_member(truths: Sequence[list[Any] | None], given: Sequence[Sequence[list[Any] | None]]) -> dict[str, float]:
    """Of each member of the answers: F1 of the values below it, each with its place, over all rows and seeds."""
    hits, total = Counter[str](), Counter[str]()
    for seed in given:
        for sides in zip(truths, seed, strict=True):
            wanted, found = (Counter(_values(side)) for side in sides)
            for member, *_ in (wanted & found).elements():
                hits[member] += 1
            for member, *_ in (wanted + found).elements():
                total[member] += 1
    known = {member for truth in truths for member, *_ in _values(truth)}
    return {member: 2 * hits[member] / total[member] for member in sorted(known)}


def _values(read: list[Any] | None) -> Iterator[tuple[Any, ...]]:
    """Each value of an answer with the names above it, from its member downwards. Lists have no order."""
    if read is not None and isinstance(read[0], dict):
        yield from _below(read[0])


def _below(value: Any) -> Iterator[tuple[Any, ...]]:
    match value:
        case dict():
            for name, inner in cast("dict[str, Any]", value).items():
                yield from ((name, *rest) for rest in _below(inner))
        case list():
            for inner in cast("list[Any]", value):
                yield from _below(inner)
        case _:
            yield (value,)
