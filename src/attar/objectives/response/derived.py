"""Sums over outputs with hand-derived gradients: autograd's own would hold and pass over several times as much.

Each takes log-probabilities of rows [N, V], float32 or float64, of the teacher (p) and the student (q), and gives [N],
in nats. The derivative by log q is found together with the value, and only multiplied in the backward pass. The laws of
the objectives made of them hold each one to finite differences. None has a second derivative.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Number = float | Tensor
"""A number, or one a row: [N, 1]."""


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of any two sides, with a gradient for both: 0 log 0 is 0, and so is its gradient; inf where q is 0."""
    return cast("Tensor", _Divergence.apply(log_p, log_q))


def divergence_of_logits(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(p || q) as `divergence` has it, from logits; the student's have a gradient, q - p."""
    return cast("Tensor", _OfLogits.apply(teacher, student))


def log_probabilities_at(logits: Tensor, ids: Tensor) -> Tensor:
    """Log q, [N, S], of the outputs `ids` (int64 [N, S]) of rows of logits [N, V]."""
    return cast("Tensor", _At.apply(logits, ids))


def to_mixture(
    log_p: Tensor, log_q: Tensor, *, share: Number, of_p: Number, of_q: Number, held: bool = False
) -> Tensor:
    """of_p KL(p || m) + of_q KL(q || m), m = share p + (1 - share) q, with `share` in 0..1: exactly 0 where p is q.

    `held`: q is constant in m where it is compared with m itself.
    """
    part = torch.as_tensor(share, dtype=log_q.dtype, device=log_q.device).detach()
    return _given(log_q, *_to_mixture(log_p.detach(), log_q.detach(), part, of_p, of_q, held))


def weighed_directions(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum_i sg[w_i] p_i log(p_i / q_i) + (1 - sg[w_i]) q_i log(q_i / p_i), w_i = p_i / (p_i + q_i)."""
    return _given(log_q, *_weighed_directions(log_p.detach(), log_q.detach()))


def between_powers(log_p: Tensor, log_q: Tensor, alpha: float, beta: float) -> Tensor:
    """sum_i (a/s p_i^s + b/s q_i^s - p_i^a q_i^b) / (a b), s = a + b > 0, or its limit where a or b is 0."""
    return _given(log_q, *_between_powers(log_p.detach(), log_q.detach(), alpha, beta))


def not_negative(value: Tensor) -> Tensor:
    """Rounding may end at -1e-8: 0 instead, with the gradient as it was."""
    return value + (value.clamp(min=0.0) - value).detach().nan_to_num(0.0)


def _given(log_q: Tensor, value: Tensor, by_q: Tensor) -> Tensor:
    return cast("Tensor", _Given.apply(log_q, not_negative(value), by_q))


class _Given(torch.autograd.Function):
    """A value [N] with its derivative by log q, [N, V]."""

    @staticmethod
    def forward(ctx: Any, log_q: Tensor, value: Tensor, by_q: Tensor) -> Tensor:
        ctx.save_for_backward(by_q)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the names
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor, None, None]:
        (by_q,) = ctx.saved_tensors
        return by_q * outer[0].unsqueeze(-1), None, None


class _Divergence(torch.autograd.Function):
    """sum_i p_i g_i, g = log p - log q: its derivatives are p_i (g_i + 1) by log p_i and -p_i by log q_i."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, log_q: Tensor) -> Tensor:
        p = log_p.exp()
        gap = (log_p - log_q).masked_fill_(p == 0.0, 0.0)
        ctx.save_for_backward(p, gap if ctx.needs_input_grad[0] else None)
        return not_negative((p * gap).sum(-1))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the names
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        p, gap = ctx.saved_tensors
        minus = -outer[0].unsqueeze(-1)
        by_q = p * minus if ctx.needs_input_grad[1] else None
        return None if gap is None else (gap + 1.0).mul_(p).mul_(-minus), by_q


class _OfLogits(torch.autograd.Function):
    """The same from logits: no log-probability is written down, and autograd's step through each softmax is saved."""

    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor) -> Tensor:
        (log_p, p, of_p), (log_q, q, of_q) = _unnormalised(teacher), _unnormalised(student)
        shift = of_p.log() - of_q.log()
        on_cpu = p.device.type == "cpu"
        value = (log_p - log_q).sub_(shift).mul_(p).sum(-1) if on_cpu else None
        if value is None or not bool(torch.isfinite(value).all()):  # 0 log 0 somewhere; rare, so seen late on a CPU
            value = (log_p - log_q).sub_(shift).masked_fill_(p == 0.0, 0.0).mul_(p).sum(-1)
        ctx.save_for_backward(p, of_p, q, of_q)
        return not_negative(value / of_p.squeeze(-1))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the names
        ctx: Any, *outer: Tensor
    ) -> tuple[None, Tensor]:
        p, of_p, q, of_q = ctx.saved_tensors
        each = outer[0].unsqueeze(-1)
        return None, (q * (each / of_q)).addcmul_(p, each / of_p, value=-1.0)


class _At(torch.autograd.Function):
    """log q at some outputs: the derivative of each by the logits is 1 at its own output, less q."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        log_q, q, of_q = _unnormalised(logits)
        ctx.save_for_backward(q, of_q, ids)
        return log_q.gather(-1, ids).sub_(of_q.log())

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the names
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor, None]:
        q, of_q, ids = ctx.saved_tensors
        return (q * (outer[0].sum(-1, keepdim=True) / of_q).neg_()).scatter_add_(-1, ids, outer[0]), None


def _unnormalised(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits less the largest of their row, the exponentials of these, and their sum [N, 1].

    Log-probabilities are the first less the logarithm of the last: written out, `log_softmax` takes longer than both.
    """
    if not logits.shape[-1]:
        return logits, logits, logits.new_ones((*logits.shape[:-1], 1))
    log_q = logits - logits.amax(-1, keepdim=True)
    q = log_q.exp()
    return log_q, q, q.sum(-1, keepdim=True)


def _to_mixture(
    log_p: Tensor, log_q: Tensor, share: Tensor, of_p: Number, of_q: Number, held: bool
) -> tuple[Tensor, Tensor]:
    """By log q: of_q q (log(q / m) + 1) - r (of_p p + of_q q), r = (1 - share) q / m; without the last q if held."""
    log_p, log_q = _finite(log_p), _finite(log_q)
    gap = log_q - log_p
    smaller = torch.where(gap >= 0.0, share, 1.0 - share)
    # log m = max + log1p(w (e^-|gap| - 1)), w the share of the smaller: exactly log p where both agree.
    log_m = gap.abs_().neg_().expm1_().mul_(smaller).log1p_().add_(torch.maximum(log_p, log_q))
    taken = torch.exp(log_q - log_m).mul_(1.0 - share)
    value, by_q = torch.zeros_like(log_q[..., 0]), None
    if isinstance(of_p, Tensor) or of_p:
        p = log_p.exp()
        value = value + (log_p.sub_(log_m).mul_(p).mul_(of_p)).sum(-1)
        by_q = p.mul_(taken).mul_(-of_p)
    if isinstance(of_q, Tensor) or of_q:
        q = log_q.exp()
        own = log_q.sub_(log_m)
        value = value + (own * q).mul_(of_q).sum(-1)
        own.add_(1.0) if held else own.add_(1.0).sub_(taken)
        own.mul_(q).mul_(of_q)
        by_q = own if by_q is None else by_q.add_(own)
    return value, torch.zeros_like(log_q) if by_q is None else by_q


def _weighed_directions(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """As w_i p_i - (1 - w_i) q_i = p_i - q_i, the value is sum_i (p_i - q_i) g_i, g = log p - log q.

    By log q: (1 - w_i) q_i (1 - g_i) - w_i p_i.
    """
    p, q = log_p.exp(), log_q.exp()
    gap = log_p - log_q
    gap.masked_fill_((p == 0.0) & (q == 0.0), 0.0)
    weight = gap.sigmoid()
    value = (p - q).mul_(gap).sum(-1)
    falling = q.mul_(gap.neg_().add_(1.0)).mul_(1.0 - weight)
    return value, falling.sub_(p.mul_(weight))


def _between_powers(log_p: Tensor, log_q: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """By log q: q^b (q^a - p^a) / a, or q^b (log q - log p) where a is 0."""
    log_p, log_q, total = _finite(log_p), _finite(log_q), alpha + beta
    gap, high = log_q - log_p, torch.maximum(log_p, log_q)
    fall = gap.abs().neg_()
    if alpha == beta:
        slope = torch.expm1(fall * alpha)
        shape = torch.expm1(total * fall).mul_(0.5).sub_(slope).div_(alpha * beta)
        slope.div_(-alpha)
    elif alpha and beta:
        share = torch.where(gap >= 0.0, high.new_tensor(alpha), high.new_tensor(beta))
        shape = torch.expm1(total * fall).mul_(share / total).sub_(torch.expm1(share * fall)).div_(alpha * beta)
        slope = torch.expm1(fall.mul_(alpha)).div_(-alpha)
    else:
        # One side's power leads; `leads` tells whether the larger probability is that side's.
        leads, fallen = (gap >= 0.0 if alpha == 0.0 else gap < 0.0), total * fall
        drop = torch.expm1(fallen)
        shape = torch.where(leads, drop - fallen, fallen * fallen.exp() - drop).div_(total**2)
        slope = fall.neg() if alpha == 0.0 else drop.div_(-alpha)
    value = shape.mul_((total * high).exp_()).sum(-1)
    return value, high.mul_(alpha).add_(log_q, alpha=beta).exp_().mul_(slope).copysign_(gap)


def _finite(log_p: Tensor) -> Tensor:
    """A copy where a probability of 0 is one so small that it counts for nothing, and makes no infinity."""
    return log_p.clamp(min=torch.finfo(log_p.dtype).min / 4)
