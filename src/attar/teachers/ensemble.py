"""Several models that answer as one teacher.

Mixed, all of them are asked about every row; routed, each about its own, and the others' arithmetic is not done. Logits
of language models stay apart until they are reduced (see `attar.mixture`). Shape letters: N rows, T tokens, D width, R
learned tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from attar.errors import TeacherError
from attar.logits import Logits
from attar.mixture import Combine, Mixture, Problem, Regrouped, Told, combined
from attar.signals import Signals, Speaker, Wanted, ask
from attar.tasks.base import ROUTE

_Key = TypeVar("_Key")


class Ensemble(Speaker):
    """Models side by side, in eval mode whatever is asked for, and without gradients.

    Routed, a batch says with `ROUTE`, int64 [N], by their number which model is asked about a row. All of them read
    the same inputs.
    """

    def __init__(
        self, models: Sequence[nn.Module], *, weights: Sequence[float], combine: Combine, problem: Problem, routed: bool
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models).requires_grad_(False)
        self.weights, self.routed = tuple(weights), routed
        self.combine: Combine = combine
        self.problem: Problem = problem
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever `mode` asks for."""
        return super().train(False)

    @torch.no_grad()
    def say(self, inputs: dict[str, Tensor], wanted: Wanted, positions: Tensor | None = None) -> Signals:
        """See `ask`. Raises TeacherError where more than logits is wanted of a mixture."""
        if self.routed:
            return self._routed(inputs, wanted, positions)
        if wanted.hidden or wanted.attention:
            raise TeacherError(
                "several teachers that are mixed offer logits alone: states of different models mean different things. "
                "Route each row to one of them (teacher.route), or drop the objectives that compare layers."
            )
        said = [_logits(ask(model, inputs, wanted, positions)) for model in self.models]
        if positions is None:
            dense = [one for one in said if isinstance(one, Tensor)]
            return Signals(combined(dense, self.weights, self.combine, self.problem))
        return Signals(Mixture(tuple(said), self.weights, self.combine))

    def _routed(self, inputs: dict[str, Tensor], wanted: Wanted, positions: Tensor | None) -> Signals:
        route = inputs[ROUTE]
        views = {name: value for name, value in inputs.items() if name != ROUTE}
        chosen = [int(number) for number in route.unique()]
        owns = [(route == number).nonzero().squeeze(-1) for number in chosen]
        tokens = [_tokens(views, positions, own) for own in owns]
        said = [
            ask(self.models[number], {name: value[own] for name, value in views.items()}, wanted, places)
            for number, own, (_, places) in zip(chosen, owns, tokens, strict=True)
        ]
        logits: Told | None = None
        if wanted.logits:
            each = [_logits(one) for one in said]
            rows = owns if positions is None else [which for which, _ in tokens]
            logits = _joined_logits(each, rows, dense=positions is None)
        mask = None
        if all(one.mask is not None for one in said):
            mask = _gathered(said, owns, lambda one: {0: one.mask} if one.mask is not None else {})[0]
        return Signals(
            logits,
            _gathered(said, owns, lambda one: one.hidden),
            mask,
            _gathered(said, owns, lambda one: one.attention),
        )


def models_of(teacher: nn.Module) -> list[nn.Module]:
    """The models that are asked when `teacher` is."""
    return list(teacher.models) if isinstance(teacher, Ensemble) else [teacher]


def _logits(signals: Signals) -> Logits:
    assert signals.logits is not None, "logits are wanted"
    assert not isinstance(signals.logits, Mixture | Regrouped), "a member is a model"
    return signals.logits


def _tokens(views: Mapping[str, Tensor], positions: Tensor | None, own: Tensor) -> tuple[Tensor, Tensor | None]:
    """Which of the `positions` are in the rows `own`, int64 [r], and where these are in a batch of those rows alone."""
    if positions is None:
        return own, None
    rows, width = next(iter(views.values())).shape[:2]
    number = torch.full((rows,), -1, dtype=torch.int64, device=positions.device)
    number[own] = torch.arange(len(own), device=positions.device)
    there = number[positions // width]
    which = (there >= 0).nonzero().squeeze(-1)
    return which, there[which] * width + positions[which] % width


def _joined_logits(each: Sequence[Logits], rows: Sequence[Tensor], *, dense: bool) -> Told:
    """Each model's logits at the places of its rows."""
    count, device = sum(len(own) for own in rows), rows[0].device
    if dense:
        first = each[0]
        assert isinstance(first, Tensor), "logits of whole rows are dense"
        found = first.new_empty(count, first.shape[-1])
        for own, said in zip(rows, each, strict=True):
            assert isinstance(said, Tensor), "logits of whole rows are dense"
            found[own] = said
        return found
    route, places = (torch.zeros(count, dtype=torch.int64, device=device) for _ in range(2))
    for number, own in enumerate(rows):
        route[own], places[own] = number, torch.arange(len(own), device=device)
    return Mixture(tuple(each), route=route, places=places)


def _gathered(
    said: Sequence[Signals], owns: Sequence[Tensor], values_of: Callable[[Signals], Mapping[_Key, Tensor]]
) -> dict[_Key, Tensor]:
    """Values of each model's rows as those of the batch. Raises TeacherError where they are not of one shape."""
    each = [values_of(one) for one in said]
    found: dict[_Key, Tensor] = {}
    for key, first in each[0].items():
        values = [one[key] for one in each]
        if any(value.shape[1:] != first.shape[1:] for value in values):
            shapes = ", ".join(str(list(value.shape[1:])) for value in values)
            raise TeacherError(
                f"the teachers that rows are routed to show {key} in different shapes ({shapes}). Use models of one "
                "shape, or drop the objectives that compare layers."
            )
        whole = first.new_empty(sum(len(own) for own in owns), *first.shape[1:])
        for own, value in zip(owns, values, strict=True):
            whole[own] = value
        found[key] = whole
    return found
