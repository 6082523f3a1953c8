"""Laws of batch objectives, as one call: `check_batch(fn)`. Their like for row objectives is `check_objective`.

Checked on a few seeded batches, in float64 where precision is not the matter. Shape letters: N rows, D_s and D_t the
student's and the teacher's width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attar.testing import _require, _same

BatchFunction = Callable[[Tensor, Tensor], Tensor]
"""(student [N, D_s], teacher [N, D_t]) -> scalar."""
Frozen = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The same with its stop-gradient parts computed from the third argument, the student as it was."""
Invariance = Literal[
    "student_scale", "teacher_scale", "joint_scale", "student_move", "teacher_move", "student_shift", "teacher_shift"
]
"""Unmoved by: a positive factor of one side (of both sides alike); one vector added to every row of a side; a number of
each row's own added to that row.
"""


def check_batch(
    fn: BatchFunction,
    *,
    divergence: bool = True,
    lone_row: bool = True,
    duplication: bool = True,
    permutation: bool = True,
    finite_differences: bool = True,
    frozen: Frozen | None = None,
    invariances: Collection[Invariance] = (),
    rows: int = 6,
    width: int = 7,
    teacher_width: int | None = None,
    seed: int = 0,
) -> None:
    """Raise AssertionError naming every law that `fn` breaks.

    Always checked: a finite scalar in the inputs' dtype, with a graph; no gradient to the teacher, and the student's is
    finite, also where rows coincide or a side has collapsed to one point; float32 agrees with float64; bf16 inputs give
    the loss and gradient of float64 within 1 %; no rows give 0 with a zero gradient.

    Checked unless declared not to hold:
    `divergence`: never negative, and 0 where the student is the teacher (of one width).
    `lone_row`: one row gives 0 with a zero gradient.
    `duplication`: the batch twice over has the same value.
    `permutation`: the order of the rows does not matter, in value and gradient.
    `finite_differences`: the gradient is that of the value; of `frozen` where that is given.
    `invariances`: what the value is unmoved by, each only if named.
    """
    widths = width, width if teacher_width is None else teacher_width
    case = _Case.drawn(fn, frozen, frozenset(invariances), rows, widths, seed)
    laws: list[tuple[str, Callable[[_Case], None], bool]] = [
        ("a finite scalar", _scalar, True),
        ("divergence", _divergence, divergence),
        ("no rows", _no_rows, True),
        ("lone row", _lone_row, lone_row),
        ("duplication", _duplication, duplication),
        ("permutation", _permutation, permutation),
        ("invariances", _invariances, True),
        ("coinciding rows", _coinciding, True),
        ("no gradient to the teacher", _teacher_gradient, True),
        ("gradient by finite differences", _finite_differences, finite_differences),
        ("float32", _float32, True),
        ("bf16 within 1 %", _bf16, True),
    ]
    broken: list[str] = []
    for name, law, applies in laws:
        if applies:
            try:
                law(case)
            except Exception as error:  # whatever the function raises, the other laws are still to be told
                broken.append(f"{name}: {str(error) or type(error).__name__}")
                if law is _scalar:
                    break
    if broken:
        title = getattr(fn, "__name__", "the objective")
        raise AssertionError("\n  ".join([f"{title} breaks {len(broken)} law(s):", *broken]))


@dataclass(frozen=True)
class _Case:
    fn: BatchFunction
    frozen: Frozen | None
    invariances: frozenset[Invariance]
    student: Tensor
    teacher: Tensor
    noise: Tensor

    @classmethod
    def drawn(
        cls,
        fn: BatchFunction,
        frozen: Frozen | None,
        invariances: frozenset[Invariance],
        rows: int,
        widths: tuple[int, int],
        seed: int,
    ) -> _Case:
        generator = torch.Generator().manual_seed(seed)
        teacher = 2.0 * torch.randn(rows, widths[1], generator=generator, dtype=torch.float64)
        noise = torch.randn(rows, widths[0], generator=generator, dtype=torch.float64)
        student = teacher + noise if widths[0] == widths[1] else 2.0 * noise
        return cls(fn, frozen, invariances, student, teacher, noise)

    def value(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        leaf = student.clone().requires_grad_()
        value = self.fn(leaf, teacher)
        _require(value.requires_grad, "the value has no graph")
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach(), gradient


def _scalar(case: _Case) -> None:
    value, gradient = case.value(case.student, case.teacher)
    _require(value.shape == (), f"gave shape {list(value.shape)}, not []")
    _require(value.dtype is torch.float64, f"gave {value.dtype} for float64")
    _require(bool(torch.isfinite(value)), f"gave {float(value)}")
    _require(bool(torch.isfinite(gradient).all()), "the gradient is not finite")


def _divergence(case: _Case) -> None:
    equal_widths = case.student.shape == case.teacher.shape
    for scale in (1.0, 1e-2, 1e-5):
        student = case.teacher + scale * case.noise if equal_widths else scale * case.student
        value = float(case.fn(student, case.teacher))
        _require(value >= 0, f"negative: {value:.3g}")
        value = float(case.fn(student.float(), case.teacher.float()))
        _require(value >= 0, f"negative in float32: {value:.3g}")
    for teacher in (case.teacher, case.teacher.float()):
        value, gradient = case.value(teacher.clone(), teacher)
        _require(float(value.abs()) <= 1e-12, f"where the student is the teacher: {float(value):.3g}, not 0")
        _require(bool(torch.isfinite(gradient).all()), "where the student is the teacher, the gradient is not finite")


def _no_rows(case: _Case) -> None:
    value, _ = case.value(case.student[:0], case.teacher[:0])
    _require(float(value) == 0, f"gave {float(value)}, not 0")


def _lone_row(case: _Case) -> None:
    value, gradient = case.value(case.student[:1], case.teacher[:1])
    _require(float(value) == 0, f"gave {float(value)}, not 0")
    _require(bool((gradient == 0).all()), f"the gradient is {gradient.tolist()}, not 0")


def _duplication(case: _Case) -> None:
    value, gradient = case.value(case.student, case.teacher)
    twice, parts = case.value(torch.cat([case.student] * 2), torch.cat([case.teacher] * 2))
    _same(twice, value, "value of the duplicated batch")
    _same(parts[: len(gradient)] + parts[len(gradient) :], gradient, "gradient of the duplicated batch")


def _permutation(case: _Case) -> None:
    value, gradient = case.value(case.student, case.teacher)
    order = torch.arange(len(case.student)).roll(2).flip(0)
    moved, permuted = case.value(case.student[order], case.teacher[order])
    _same(moved, value, "value of the permuted batch")
    _same(permuted, gradient[order], "gradient of the permuted batch")


def _invariances(case: _Case) -> None:
    student, teacher = case.student, case.teacher
    value = case.fn(student, teacher)
    own = torch.linspace(-3, 3, len(student), dtype=torch.float64).unsqueeze(-1)
    ours, theirs = (torch.linspace(-2, 5, side.shape[1], dtype=torch.float64) for side in (student, teacher))
    changed: dict[Invariance, tuple[Tensor, Tensor]] = {
        "student_scale": (3 * student, teacher),
        "teacher_scale": (student, 3 * teacher),
        "joint_scale": (3 * student, 3 * teacher),
        "student_move": (student + ours, teacher),
        "teacher_move": (student, teacher + theirs),
        "student_shift": (student + own, teacher),
        "teacher_shift": (student, teacher + own),
    }
    for name in sorted(case.invariances):
        _same(case.fn(*changed[name]), value, f"{name.replace('_', ' ')}: value")


def _coinciding(case: _Case) -> None:
    point, zero = case.student[:1].expand_as(case.student), torch.zeros_like(case.student)
    target, origin = case.teacher[:1].expand_as(case.teacher), torch.zeros_like(case.teacher)
    twins = torch.tensor([0, 0, *range(2, len(case.student))])
    for name, student, teacher in (
        ("two rows of the student coincide", case.student[twins], case.teacher),
        ("two rows of both coincide", case.student[twins], case.teacher[twins]),
        ("the student's rows are one point", point, case.teacher),
        ("the student is 0", zero, case.teacher),
        ("the teacher's rows are one point", case.student, target),
        ("the teacher is 0", case.student, origin),
        ("both sides' rows are one point", point, target),
        ("both sides are 0", zero, origin),
    ):
        for dtype in (torch.float64, torch.float32):
            value, gradient = case.value(student.to(dtype), teacher.to(dtype))
            _require(bool(torch.isfinite(value)), f"{name}: gave {float(value)}")
            _require(bool(torch.isfinite(gradient).all()), f"{name}: the gradient is not finite")


def _teacher_gradient(case: _Case) -> None:
    teacher = case.teacher.clone().requires_grad_()
    case.fn(case.student.clone().requires_grad_(), teacher).backward()
    _require(teacher.grad is None or bool((teacher.grad == 0).all()), "the teacher has a gradient")


def _finite_differences(case: _Case) -> None:
    leaf, held = case.student.clone().requires_grad_(), case.student.clone()
    frozen = case.frozen

    def value(student: Tensor) -> Tensor:
        return case.fn(student, case.teacher) if frozen is None else frozen(student, case.teacher, held)

    torch.autograd.gradcheck(value, (leaf,))
    if frozen is not None:
        expected = case.value(case.student, case.teacher)
        found = value(leaf)
        _same(found.detach(), expected[0], "value with its held parts given")
        _same(torch.autograd.grad(found, leaf)[0], expected[1], "gradient with its held parts given")


def _float32(case: _Case) -> None:
    value, gradient = case.value(case.student.float(), case.teacher.float())
    _require(value.dtype is torch.float32, f"gave {value.dtype} for float32")
    exact, slope = case.value(case.student.float().double(), case.teacher.float().double())
    _near(value, exact, 1e-4, "value")
    _near(gradient, slope, 1e-4, "gradient")


def _bf16(case: _Case) -> None:
    student, teacher = case.student.bfloat16(), case.teacher.bfloat16()
    value, gradient = case.value(student.float(), teacher.float())
    exact, slope = case.value(student.double(), teacher.double())
    _near(value, exact, 0.01, "loss")
    _near(gradient, slope, 0.01, "gradient")


def _near(got: Tensor, expected: Tensor, bound: float, what: str) -> None:
    away = float((got.double() - expected).norm() / expected.norm().clamp(min=1e-12))
    _require(away <= bound, f"the {what} is {away:.2%} away")
