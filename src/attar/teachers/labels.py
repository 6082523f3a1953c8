"""Which of a model's outputs is which of the task's labels: by name, never by position alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attar.errors import TeacherError
from attar.recipe.nearest import listed, nearest

_GENERIC = re.compile(r"LABEL_\d+")
_SHOWN = 12


@dataclass(frozen=True)
class OutputOrder:
    """Positions of the task's labels among the model's outputs; None where they are the same."""

    outputs: tuple[int, ...] | None
    warnings: tuple[str, ...] = ()


def order_outputs(own: Sequence[str], labels: Sequence[str], label_map: Mapping[str, str] | None = None) -> OutputOrder:
    """Find the task's `labels` among a model's `own` label names.

    `label_map` renames the model's labels first. Names match exactly, else without case, spaces, `-` and `_`. Generic
    names (`LABEL_0`, ...) of the right number are taken in order, with a warning; labels that the task does not have
    are left out, with a warning. Raises TeacherError that lists the labels that the teacher doesn't know.
    """
    strangers = sorted(set(label_map or {}) - set(own))
    if strangers:
        raise TeacherError(
            f"teacher.label_map names labels that the teacher does not have: {_with_nearest(strangers, own)}. "
            f"The teacher's labels: {_shown(own)}."
        )
    if not label_map and len(own) == len(labels) == 1:
        return OutputOrder(None)
    if not label_map and all(_GENERIC.fullmatch(name) for name in own) and len(own) == len(labels):
        return OutputOrder(
            None,
            (
                f"the teacher's labels have no names ({own[0]}, ...); they were taken in the order of the data's "
                "labels. "
                "If its quality on validation is poor, give `teacher.label_map`.",
            ),
        )
    renamed = [(label_map or {}).get(name, name) for name in own]
    exact = {name: i for i, name in enumerate(renamed)}
    plain: dict[str, list[int]] = {}
    for i, name in enumerate(renamed):
        plain.setdefault(_plain(name), []).append(i)
    found = {name: exact.get(name, _only(plain.get(_plain(name), []))) for name in labels}
    unknown = [name for name, position in found.items() if position is None]
    if unknown:
        raise TeacherError(
            f"the teacher does not know {len(unknown)} of the data's {len(labels)} labels: "
            f"{_with_nearest(unknown, own)}. "
            f"The teacher's labels: {_shown(own)}. Map its names to the data's in `teacher.label_map`, or use "
            "`teacher.fit: probe` to give it a head for these labels."
        )
    outputs = tuple(position for position in found.values() if position is not None)
    if len(set(outputs)) < len(outputs):
        raise TeacherError(
            f"two of the data's labels are one label of the teacher; the teacher's labels: {_shown(own)}."
        )
    left_out = [own[i] for i in range(len(own)) if i not in set(outputs)]
    warnings = (f"the teacher also knows {_shown(left_out)}; these outputs are left out.",) if left_out else ()
    return OutputOrder(None if outputs == tuple(range(len(own))) else outputs, warnings)


def _with_nearest(unknown: Sequence[str], own: Sequence[str]) -> str:
    near = {name: nearest(name, own) for name in unknown}
    return listed((f'"{name}"' + (f' (nearest: "{n}")' if n else "") for name, n in near.items()), _SHOWN)


def _shown(names: Sequence[str]) -> str:
    return listed((f'"{name}"' for name in names), _SHOWN)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())


def _only(positions: list[int]) -> int | None:
    return positions[0] if len(positions) == 1 else None
