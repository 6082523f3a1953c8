"""`layers: cka`: the pairs with the largest sum of CKA that keep their order."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.objectives.relation import cka_similarity
from attar.objectives.terms.layer_maps import choose_pairs, in_order
from objectives.draws import quick


@quick
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6))
def test_no_other_order_has_a_larger_sum(rows: int, columns: int, seed: int) -> None:
    worth = np.random.default_rng(seed).random((rows, columns))
    step = 1 if rows <= columns else 0
    ways = [
        way
        for way in itertools.product(range(columns), repeat=rows)
        if all(b - a >= step for a, b in itertools.pairwise(way))
    ]
    best = max(ways, key=lambda way: sum(worth[i, j] for i, j in enumerate(way)))
    assert in_order(worth) == list(best)


def test_of_equal_sums_the_lower_layers() -> None:
    assert in_order(np.ones((2, 4))) == [0, 1]
    assert in_order(np.ones((3, 2))) == [0, 0, 0]


def states(seed: int, layers: int, width: int, rows: int = 40) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(rows, width, generator=generator) for layer in range(1, layers + 1)}


def test_layers_are_found_again_behind_a_rotation_and_another_width() -> None:
    teacher = states(0, 5, 6)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    wider = torch.cat([3.0 * teacher[4] @ turn, torch.zeros(40, 3)], 1) + 7.0
    found = choose_pairs({1: teacher[2] + 1.0, 2: wider}, teacher)
    assert found.pairs == ((1, 2), (2, 4))
    assert found.similarities == (1.0, 1.0)


def test_order_is_kept_where_the_best_of_each_would_cross() -> None:
    teacher = states(0, 4, 5)
    student = {1: teacher[3], 2: teacher[2]}
    found = choose_pairs(student, teacher)
    (a, b), (c, d) = found.pairs
    assert (a, c) == (1, 2)
    assert b < d
    alone = float(cka_similarity(teacher[3].double(), teacher[b].double()))
    assert found.similarities[0] == round(alone, 4)


def test_only_layers_that_are_offered_are_chosen() -> None:
    teacher = states(0, 6, 5)
    offered = {layer: teacher[layer] for layer in (2, 5)}
    assert choose_pairs({1: teacher[2], 2: teacher[5], 3: teacher[5]}, offered).pairs == ((1, 2), (2, 5), (3, 5))
