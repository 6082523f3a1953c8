"""Laws that a row objective must keep, as one call for your own tests: `check_objective(my_loss)`.

The same laws hold for attar's own objectives. They are checked on a few seeded batches, in float64 where precision is
not the matter, through the very reduction that training uses. Needs no test framework. Shape letters: N rows, V
outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.errors import TrainingError
from attar.logits import Logits, Projection
from attar.objectives.own import keywords
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import RowFunction, Share, Term

__all__ = ["check_objective"]

_ROWS = 6
_INF = float("inf")


def check_objective(
    fn: RowFunction,
    *,
    divergence: bool = True,
    shift_invariant: bool = True,
    infinite: bool = True,
    temperature_power: int | None = 2,
    finite_differences: bool = True,
    width: int = 7,
    seed: int = 0,
) -> None:
    """Raise AssertionError naming every law that `fn(student_logits [N, V], teacher_logits [N, V]) -> [N]` breaks.

    Where its signature has them `fn` is also given `labels`, int64 [N]: the teacher's answer, and `progress`, 0.5.

    Always checked: one value a row, which depends on that row alone; what is masked or padded does not matter, NaN
    included; a duplicated batch has the same mean; chunks and micro-batches add up to the whole, and logits projected
    block by block give what dense ones give, in loss and gradient; everything masked gives exactly 0 and a zero
    gradient; a student's -inf where the teacher has probability is an error that names row and token; no gradient
    reaches the teacher; bf16 inputs give the loss and gradient of float64 within 1 %.

    Checked unless you declare that it does not hold, which deserves a reason beside the call:
    `divergence`: never negative (rounding apart), and 0 where both sides agree.
    `shift_invariant`: adding a number to a row's logits changes nothing.
    `infinite`: -inf on both sides is as if the output were not there, in value and gradient.
    `temperature_power`: times this power of the temperature (2 for KL and its like, 1 for distances of probabilities)
    it tends to a limit that is neither 0 nor infinite; None where none does.
    `finite_differences`: the gradient is that of the value (False where a part is held constant on purpose).

    `width` is V; `seed` draws other batches.
    """
    generator = torch.Generator().manual_seed(seed)
    teacher = 2.0 * torch.randn(_ROWS, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(_ROWS, width, generator=generator, dtype=torch.float64)
    case = _Case(_given(fn), teacher + noise, teacher, noise, temperature_power or 0)
    laws: list[tuple[str, Callable[[_Case], None], bool]] = [
        ("one value a row", _one_value_a_row, True),
        ("divergence", _divergence, divergence),
        ("masked rows do not matter", _masked_rows, True),
        ("shift invariance", _shift, shift_invariant),
        ("duplication", _duplication, True),
        ("chunks and micro-batches add up", _parts_add_up, True),
        ("projected in blocks as dense", _lazy_as_dense, True),
        ("everything masked", _all_masked, True),
        ("-inf on both sides", _infinite_on_both_sides, infinite),
        ("-inf on the student's side alone", _infinite_student, width > 1),
        ("no gradient to the teacher", _teacher_gradient, True),
        ("gradient by finite differences", _finite_differences, finite_differences),
        ("bf16 within 1 %", _bf16, True),
        ("power of the temperature", _temperature_power, temperature_power is not None),
    ]
    broken: list[str] = []
    for name, law, applies in laws:
        if applies:
            try:
                law(case)
            except Exception as error:  # whatever a foreign function raises, the other laws are still to be told
                broken.append(f"{name}: {str(error) or type(error).__name__}")
                if law is _one_value_a_row:
                    break  # the rest would only say it again
    if broken:
        title = getattr(fn, "__name__", "the objective")
        raise AssertionError("\n  ".join([f"{title} breaks {len(broken)} law(s):", *broken]))


@dataclass(frozen=True)
class _Case:
    fn: RowFunction
    student: Tensor
    teacher: Tensor
    noise: Tensor
    power: int

    def reduce(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        keep: Tensor | None = None,
        count: float | None = None,
        temperature: float = 1.0,
        chunk_rows: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Loss and the student's gradient, through the reduction; `count` None: the rows kept here."""
        leaf = student.clone().requires_grad_()
        kept = len(student) if keep is None else int(keep.sum())
        term = Term("objective", self.fn, temperature=temperature, temperature_power=self.power)
        share = Share(term, teacher, keep, kept if count is None else count)
        total = reduce_rows(leaf, [share], chunk_rows=chunk_rows).total
        (gradient,) = torch.autograd.grad(total, leaf)
        return total.detach(), gradient


def _given(fn: RowFunction) -> RowFunction:
    """The function of both sides alone; what else it takes is told by the teacher's row, in whatever batch that is."""
    names = keywords(fn)
    fixed = {"progress": 0.5} if "progress" in names else {}

    def of_both(student: Tensor, teacher: Tensor) -> Tensor:
        given = {**fixed, "labels": teacher.detach().argmax(-1)} if "labels" in names else fixed
        return fn(student, teacher, **given)

    return of_both


def _one_value_a_row(case: _Case) -> None:
    values = case.fn(case.student, case.teacher)
    _require(values.shape == (_ROWS,), f"gave shape {list(values.shape)} for {_ROWS} rows, not [{_ROWS}]")
    _require(values.dtype is torch.float64, f"gave {values.dtype} for float64")
    _require(bool(torch.isfinite(values).all()), f"gave {values.tolist()}")
    order = torch.arange(_ROWS - 1, 0, -1)
    _same(case.fn(case.student[order], case.teacher[order]), values[order], "values of the same rows in another batch")


def _divergence(case: _Case) -> None:
    for scale in (1.0, 1e-2, 1e-5):
        values = case.fn(case.teacher + scale * case.noise, case.teacher)
        _require(bool((values >= -1e-12).all()), f"negative: {float(values.min()):.3g}")
        rounded = case.fn((case.teacher + scale * case.noise).float(), case.teacher.float())
        _require(bool((rounded >= -1e-6).all()), f"negative in float32: {float(rounded.min()):.3g}")
    equal = case.fn(case.teacher.clone(), case.teacher)
    _require(bool((equal.abs() <= 1e-12).all()), f"where both sides agree: {float(equal.abs().max()):.3g}, not 0")


def _masked_rows(case: _Case) -> None:
    keep = torch.arange(_ROWS) % 2 == 0
    expected = case.reduce(case.student[keep], case.teacher[keep])
    for garbage in (float("nan"), _INF, 1e30):
        student, teacher = case.student.clone(), case.teacher.clone()
        student[~keep], teacher[~keep] = garbage, garbage
        loss, gradient = case.reduce(student, teacher, keep=keep)
        _same(loss, expected[0], f"loss with {garbage} in masked rows")
        _same(gradient[keep], expected[1], f"gradient with {garbage} in masked rows")
        _require(bool((gradient[~keep] == 0).all()), "masked rows have a gradient")


def _shift(case: _Case) -> None:
    values = case.fn(case.student, case.teacher)
    shift = torch.linspace(-20, 20, _ROWS, dtype=torch.float64).unsqueeze(-1)
    _same(case.fn(case.student + shift, case.teacher), values, "values after a shift of the student's rows")
    _same(case.fn(case.student, case.teacher + shift), values, "values after a shift of the teacher's rows")


def _duplication(case: _Case) -> None:
    loss, _ = case.reduce(case.student, case.teacher)
    twice, _ = case.reduce(torch.cat([case.student] * 2), torch.cat([case.teacher] * 2))
    _same(twice, loss, "mean of the duplicated batch")


def _parts_add_up(case: _Case) -> None:
    loss, gradient = case.reduce(case.student, case.teacher)
    for size in (1, 4):
        chunked = case.reduce(case.student, case.teacher, chunk_rows=size)
        _same(chunked[0], loss, f"loss in chunks of {size}")
        _same(chunked[1], gradient, f"gradient in chunks of {size}")
        pairs = zip(case.student.split(size), case.teacher.split(size), strict=True)
        parts = [case.reduce(student, teacher, count=_ROWS) for student, teacher in pairs]
        _same(torch.stack([part[0] for part in parts]).sum(), loss, f"loss of micro-batches of {size}")
        _same(torch.cat([part[1] for part in parts]), gradient, f"gradient of micro-batches of {size}")


def _lazy_as_dense(case: _Case) -> None:
    """Logits given as hidden states and a head: same loss, and gradients of both as autograd finds them."""
    width = case.student.shape[1]
    weight = torch.eye(width, dtype=torch.float64) + 0.1
    hidden = torch.linalg.solve(weight, case.student.t()).t()
    leaves = [part.clone().requires_grad_() for part in (hidden, weight)]
    keep = torch.arange(_ROWS) % 3 != 1
    term = Term("objective", case.fn, temperature_power=case.power)
    lazy = Projection(leaves[0], leaves[1])

    def gradients(logits: Logits, chunk_rows: int) -> list[Tensor]:
        share = Share(term, case.teacher, keep, int(keep.sum()))
        total = reduce_rows(logits, [share], chunk_rows=chunk_rows).total
        return [total.detach(), *torch.autograd.grad(total, leaves)]

    found = zip(gradients(lazy, 2), gradients(lazy.dense(), _ROWS), strict=True)
    for what, (got, expected) in zip(("loss", "gradient of hidden", "gradient of weight"), found, strict=True):
        _same(got, expected, f"{what} of a projection")


def _all_masked(case: _Case) -> None:
    loss, gradient = case.reduce(case.student, case.teacher, keep=torch.zeros(_ROWS, dtype=torch.bool))
    _require(float(loss) == 0.0, f"the loss is {float(loss)}, not 0")
    _require(bool((gradient == 0).all()), "the gradient is not 0")


def _infinite_on_both_sides(case: _Case) -> None:
    student, teacher = case.student.clone(), case.teacher.clone()
    student[:, 1], teacher[:, 1] = -_INF, -_INF
    others = [column for column in range(student.shape[1]) if column != 1]
    expected = case.reduce(student[:, others], teacher[:, others])
    loss, gradient = case.reduce(student, teacher)
    _require(bool(torch.isfinite(gradient).all()), "the gradient is not finite")
    _same(loss, expected[0], "loss, against the batch without that output")
    _same(gradient[:, others], expected[1], "gradient, against the batch without that output")
    _require(bool((gradient[:, 1] == 0).all()), "an output at -inf has a gradient")


def _infinite_student(case: _Case) -> None:
    student = case.student.clone()
    student[3, 1] = -_INF
    try:
        case.reduce(student, case.teacher)
    except TrainingError as error:
        _require(
            "row 3" in str(error) and "token 1" in str(error), f"the error names neither row 3 nor token 1: {error}"
        )
        return
    raise AssertionError("was accepted")


def _teacher_gradient(case: _Case) -> None:
    teacher = case.teacher.clone().requires_grad_()
    student = case.student.clone().requires_grad_()
    share = Share(Term("objective", case.fn), teacher, None, _ROWS)
    reduce_rows(student, [share]).total.backward()
    _require(teacher.grad is None or bool((teacher.grad == 0).all()), "the teacher has a gradient")


def _finite_differences(case: _Case) -> None:
    student = case.student.clone().requires_grad_()

    def values(logits: Tensor) -> Tensor:
        return case.fn(logits, case.teacher)

    torch.autograd.gradcheck(values, (student,))


def _bf16(case: _Case) -> None:
    student, teacher = (case.teacher + 0.15 * case.noise).bfloat16(), case.teacher.bfloat16()
    loss, gradient = case.reduce(student, teacher)
    oracle, exact = case.reduce(student.double(), teacher.double())
    away = float((loss - oracle).abs() / oracle.abs().clamp(min=1e-12))
    _require(away <= 0.01, f"the loss is {away:.1%} away")
    away = float((gradient.double() - exact).norm() / exact.norm().clamp(min=1e-12))
    _require(away <= 0.01, f"the gradient is {away:.1%} away")


def _temperature_power(case: _Case) -> None:
    hot, hotter = (float(case.reduce(case.student, case.teacher, temperature=t)[0]) for t in (200.0, 400.0))
    _require(hot != 0 and abs(hotter / hot - 1) <= 0.05, f"is {hot:.4g} at T = 200 and {hotter:.4g} at T = 400")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _same(got: Tensor, expected: Tensor, what: str) -> None:
    if not torch.allclose(got, expected, rtol=1e-9, atol=1e-9):
        difference = float((got - expected).abs().max())
        raise AssertionError(f"{what}: differs by up to {difference:.3g}")
