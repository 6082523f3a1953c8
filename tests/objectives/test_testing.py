"""`check_objective` must catch the mistakes that people make in their own losses, and name the law."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attar.objectives.response import forward_kl
from attar.testing import check_objective


def mean_over_batch(student: Tensor, teacher: Tensor) -> Tensor:
    return forward_kl(student, teacher).mean()


def divided_by_batch(student: Tensor, teacher: Tensor) -> Tensor:
    return forward_kl(student, teacher) / max(len(student), 1)


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1)


def raw_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum(-1)


def plain_where(student: Tensor, teacher: Tensor) -> Tensor:
    """Reverse KL that masks the product, so that NaN comes back in the gradient."""
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    return torch.where(s > -torch.inf, s.exp() * (s - t), 0.0).sum(-1)


def loses_digits(student: Tensor, teacher: Tensor) -> Tensor:
    return forward_kl(student + 1e6, teacher + 1e6)


def total_variation(student: Tensor, teacher: Tensor) -> Tensor:
    return 0.5 * (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1)


def renormalised_top_2(student: Tensor, teacher: Tensor) -> Tensor:
    """The teacher is renormalised over its top k, the student is not: it does not vanish where both agree."""
    top, ids = teacher.topk(2, -1)
    p = top.log_softmax(-1)
    return (p.exp() * (p - student.log_softmax(-1).gather(-1, ids))).sum(-1)


def constant_gradient(student: Tensor, teacher: Tensor) -> Tensor:
    return forward_kl(student, teacher).detach() + 0 * student.sum(-1)


@pytest.mark.parametrize(
    ("function", "law"),
    [
        (mean_over_batch, "one value a row: gave shape"),
        (divided_by_batch, "one value a row: values of the same rows in another batch"),
        (soft_cross_entropy, "divergence: where both sides agree"),
        (raw_distance, "shift invariance: values after a shift of the student's rows"),
        (total_variation, "power of the temperature: "),
        (plain_where, "-inf on both sides: the gradient is not finite"),
        (loses_digits, "bf16 within 1 %: the loss is"),
        (renormalised_top_2, "divergence: where both sides agree"),
        (constant_gradient, "gradient by finite differences: "),
        (lambda s, t: forward_kl(s, t) - 0.01, "divergence: negative"),
    ],
)
def test_a_broken_law_is_named(function: Callable[[Tensor, Tensor], Tensor], law: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_objective(function)
    assert law in str(caught.value)


def test_laws_that_do_not_hold_can_be_declared() -> None:
    check_objective(total_variation, temperature_power=None)
    check_objective(total_variation, temperature_power=1)
    check_objective(soft_cross_entropy, divergence=False, infinite=False, temperature_power=None)


def test_all_broken_laws_come_in_one_message() -> None:
    with pytest.raises(AssertionError) as caught:
        check_objective(raw_distance)
    first, *broken = str(caught.value).splitlines()
    assert first == "raw_distance breaks 2 law(s):"
    assert [line.split(":")[0].strip() for line in broken] == ["shift invariance", "-inf on both sides"]


def test_a_peers_function_passes() -> None:
    def peer(student: Tensor, teacher: Tensor) -> Tensor:
        pair = student.log_softmax(-1), teacher.log_softmax(-1)
        return functional.kl_div(*pair, reduction="none", log_target=True).sum(-1)

    check_objective(peer, infinite=False)
