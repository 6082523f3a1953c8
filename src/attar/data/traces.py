"""Teachers' written answers: which of them end where they should, and how many long ones a small student gets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from attar.errors import DataError

Row = TypeVar("Row")

_THINK, _THOUGHT = "<think>", "</think>"
_BOX = r"\boxed{"
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


def same_answer(one: str, other: str) -> bool:
    """Equal but for white space, or equal as JSON, where 0.50 is 0.5 and the order of keys does not matter.

    Strict: 1/2 is not 0.5. A right trace left out costs a row; a wrong one kept teaches an error. For mathematics hand
    over an `equal` of your own.
    """
    if one.split() == other.split():
        return True
    left, right = read_json(one), read_json(other)
    return left is not None and left == right


def final_answer(trace: str) -> str | None:
    r"""What a trace says in the end, trimmed: its last `\boxed{...}`, or all of it if that is JSON, or its last line.

    A thought between <think> and </think> is no answer. None where nothing is said, and where the trace was cut off: in
    an open thought or an open box. Where the template's prompt opens the thought, hand the trace over with its <think>.
    """
    said = trace.rpartition(_THOUGHT)[2].strip()
    if not said or _THINK in said:
        return None
    if _BOX in said:
        return _up_to_closing_brace(said.rpartition(_BOX)[2])
    return said if read_json(said) is not None else said.splitlines()[-1].strip()


def verified(
    traces: Sequence[str], answers: Sequence[str], *, equal: Callable[[str, str], bool] = same_answer
) -> NDArray[np.int64]:
    """Positions, ascending, of the traces that end in the known answer: DeepSeek-R1's filter (arXiv:2501.12948).

    `answers[i]` belongs to `traces[i]`; `equal(final answer, known answer)` decides. A trace without a final answer is
    left out. Raises DataError where there are not as many answers as traces.
    """
    if len(traces) != len(answers):
        raise DataError(f"{len(traces)} traces, but {len(answers)} answers to verify them with")
    pairs = [(final_answer(trace), answer) for trace, answer in zip(traces, answers, strict=True)]
    kept = [i for i, (final, answer) in enumerate(pairs) if final is not None and equal(final, answer)]
    return np.array(kept, dtype=np.int64)


def mix(long: Sequence[Row], short: Sequence[Row], *, share: float, seed: int) -> list[Row]:
    """As many rows as there can be with `share` of them long, drawn without replacement, in a seeded order.

    Students under 3B learn better from mostly short traces with some long ones (Mix Distillation, arXiv:2502.12143)
    than from either alone. `share` in 0..1 holds to the nearest row; 0 takes the short rows only, 1 the long ones only.
    Raises DataError where a side that the share asks for has no rows, ValueError on a share outside 0..1.
    """
    exact = Fraction(str(share))
    if not 0 <= exact <= 1:
        raise ValueError(f"mix: share is {share}; it is that of the long rows, so 0 <= share <= 1")
    for name, rows, part in (("long", long, exact), ("short", short, 1 - exact)):
        if part and not rows:
            raise DataError(f"mix: share is {share}, but there are no {name} rows")
    total = min(int(len(rows) / part) for rows, part in ((long, exact), (short, 1 - exact)) if part)
    generator = np.random.default_rng(seed)
    count = round(exact * total)
    chosen = [long[i] for i in generator.permutation(len(long))[:count]]
    chosen += [short[i] for i in generator.permutation(len(short))[: total - count]]
    return [chosen[i] for i in generator.permutation(total)]


def _up_to_closing_brace(text: str) -> str | None:
    depth = 1
    for brace in _BRACES.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if not depth:
            return text[: brace.start()].strip()
    return None


def read_json(text: str) -> list[Any] | None:
    """The value of a text in JSON, in a list, so that null is not None; numbers by value, as a tuple of one, told apart
    from true and false. None where it is no JSON, and where an object has a member twice.
    """
    try:
        value = json.loads(
            text, parse_int=_number, parse_float=_number, parse_constant=_no_json, object_pairs_hook=_members
        )
    except (ValueError, ArithmeticError, RecursionError):
        return None
    return [value]


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _number(text: str) -> tuple[Decimal]:
    return (Decimal(text),)


def _no_json(text: str) -> None:
    raise ValueError(f"{text} is not JSON")
