"""Objectives on a few of the teacher's probabilities a row: a stored or served top-k list, or a handful of samples.

No dense teacher [N, V] is rebuilt: what is not listed is one more cell, the tail. Lists hold log-probabilities over
the whole vocabulary at the temperature in use; one taken at temperature 1 cannot be re-tempered, as the sum over all
V outputs that another temperature needs is not in it. A list's ids are distinct in a row, and -1 is padding; whoever
writes a list makes sure of that, nothing here looks. Shape letters: N rows, V tokens, K listed tokens, S samples. p is
the teacher's distribution, q the student's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from attar.objectives.response.derived import divergence, log_probabilities_at
from attar.signals import Listed, Sampled

_INF = float("inf")
_PADDING = -1
_ROUNDING = 64
"""In units of the last place: a tail found as 1 minus a sum, and no larger than this, may be no tail at all."""


def sparse_kl(
    student_logits: Tensor, teacher_log_probs: Tensor, *, token_ids: Tensor, tail: Tensor | None = None
) -> Tensor:
    """KL(p || q) per row over K + 1 cells, the listed tokens and the tail, in nats.

    `student_logits` [N, V], float32 or float64; `teacher_log_probs` [N, K] and int64 `token_ids` [N, K] as in
    `Listed`, so at the same temperature as the student's logits. An entry counts as not listed where its id is -1 or
    its log-probability -inf. `tail` [N] is the log-probability of all else; None takes it as 1 minus the listed ones,
    which is exact to about 1e-7 in float32, but says nothing where a list was rounded to 16 bits: keep the tail with
    such a list. Returns [N], in [0, inf]. No gradient reaches the teacher.

    A lower bound of `forward_kl` that grows with the list (of nested lists, the longer gives more), and equals it from
    K = V - 1 on. 0 where q has the listed probabilities, whatever it does within the tail. The student's tail is a
    log-sum-exp of its own logits: as 1 - sum q its digits would be gone below 1e-7, where the gradient is largest.
    Choose it when the teacher is stored or served; `sampled_kl` when the tail matters, `sparse_reverse_kl` to seek
    modes.
    """
    ids = token_ids.masked_fill(teacher_log_probs.detach() == -_INF, _PADDING)
    student = cells(student_logits, ids)
    listed = teacher_log_probs.detach().masked_fill(ids == _PADDING, -_INF)
    rest = _tail_of(listed, student) if tail is None else tail.detach()
    return divergence(torch.cat([listed, rest.unsqueeze(-1)], -1), student)


def sparse_reverse_kl(student_logits: Tensor, teacher_log_probs: Tensor, *, token_ids: Tensor, tail: Tensor) -> Tensor:
    """KL(q || p) per row over K + 1 cells, the listed tokens and the tail, in nats.

    `student_logits` [N, V], float32 or float64; the rest as in `Listed`, at the same temperature. The list has to hold
    the student's likeliest tokens besides the teacher's: `joined_support` makes it and `at_tokens` asks the teacher
    about it. A stored top-k alone cannot serve: it knows nothing of the tokens that the student overrates, which are
    what this direction is about. Returns [N], in [0, inf]: inf where p is 0 at a listed token (or in the tail) and q
    is not. No gradient reaches the teacher.

    A lower bound of `reverse_kl` that grows with the list and equals it from K = V - 1 on. Without the tail's cell a
    student would be rewarded for leaving the list. `tail` is not optional, as 1 minus the listed rounds to 0 too soon,
    and this direction divides by it.
    """
    student = cells(student_logits, token_ids)
    listed = teacher_log_probs.detach().masked_fill(token_ids == _PADDING, -_INF)
    return divergence(student, torch.cat([listed, tail.detach().unsqueeze(-1)], -1))


def sampled_kl(student_logits: Tensor, teacher_log_probs: Tensor, *, token_ids: Tensor, weights: Tensor) -> Tensor:
    """sum_s w_s (log p(y_s) - log q(y_s)) per row, in nats: an estimate of KL(p || q) from S tokens y ~ r.

    Sparse Logit Sampling, Anshumann et al. 2025 (arXiv:2503.16870). `student_logits` [N, V], float32 or float64;
    `teacher_log_probs`, `weights` = p / (S r) and int64 `token_ids` [N, S] as in `Sampled`, at the same temperature;
    id -1 is padding. Returns [N], of either sign: inf where q is 0 at a drawn token. No gradient reaches the teacher.

    Over the draws both value and gradient are those of `forward_kl`, without bias and however few S are; the error
    falls as 1 / sqrt(S). The weights must stay as they are: divided by their sum they are biased, unless r = p. Two
    values that look alike are not this one. KL(p^ || q) with the drawn frequencies p^ in the place of p is biased
    upwards, by about (tokens - 1) / (2 S). sum -w log q (give zeros as `teacher_log_probs`, where only ids and weights
    were kept) has the same gradient, but is the cross-entropy, so larger by the teacher's entropy. Unlike `sparse_kl`
    it keeps the tail's shape, and is noisy instead.
    """
    kept = token_ids != _PADDING
    student = log_probabilities_at(student_logits, token_ids.clamp(min=0))
    gap = torch.where(kept, teacher_log_probs.detach() - student, 0.0)
    return (torch.where(kept, weights.detach(), 0.0) * gap).sum(-1)


def top_k(teacher_logits: Tensor, k: int) -> Listed:
    """The `k` likeliest tokens of each row, likeliest first, and the tail.

    [N, V], float32 or float64, divided by the temperature that the student's logits will be divided by; 1 <= k <= V.
    """
    return at_tokens(teacher_logits, teacher_logits.detach().topk(k, dim=-1).indices)


def top_mass(teacher_logits: Tensor, tail: float, *, most: int) -> Listed:
    """The likeliest tokens of each row until all others together have at most `tail`, or `most` are listed.

    [N, V], float32 or float64, at the temperature in use; at least one token is listed. K is the longest list of any
    row, the others are padded. Raises ValueError where an option is out of range.
    """
    if not 0.0 <= tail < 1.0:
        raise ValueError(f"top_mass: tail is {tail}; it must be in [0, 1)")
    if most < 1:
        raise ValueError(f"top_mass: most is {most}; it must be at least 1")
    listed = top_k(teacher_logits, min(most, teacher_logits.shape[-1]))
    mass = listed.log_probs.double().exp().cumsum(-1)
    enough = functional.pad(mass, (1, 0))[..., :-1] >= 1.0 - tail
    enough[..., 0] = False
    longest = int((~enough).sum(-1).max()) if enough.numel() else 0
    return at_tokens(teacher_logits, listed.token_ids.masked_fill(enough, _PADDING)[..., :longest])


def at_tokens(teacher_logits: Tensor, token_ids: Tensor) -> Listed:
    """What the teacher says of the given tokens, int64 [N, K] (-1: padding), from its logits [N, V]; no gradient."""
    found = cells(teacher_logits.detach(), token_ids)
    return Listed(found[..., :-1], token_ids, found[..., -1])


def joined_support(student_logits: Tensor, token_ids: Tensor, k: int) -> Tensor:
    """`token_ids` [N, K] and each row's `k` likeliest tokens of the student [N, V]: int64 [N, K + k].

    A token of the student that is listed already is -1.
    """
    likeliest = student_logits.detach().topk(k, dim=-1).indices
    known = (likeliest.unsqueeze(-1) == token_ids.unsqueeze(-2)).any(-1)
    return torch.cat([token_ids, likeliest.masked_fill(known, _PADDING)], -1)


def sample_targets(
    teacher_logits: Tensor,
    samples: int,
    *,
    proposal_temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Sampled:
    """Draw `samples` tokens a row, with replacement, from r = softmax(z / `proposal_temperature`) for `sampled_kl`.

    [N, V], float32 or float64, at the temperature in use. A proposal temperature above 1 draws rare tokens more often
    than p does, at a smaller weight; below 1 the weights of rare tokens have no useful bound. At 1 all weights are
    1 / `samples`. Raises ValueError where it is not above 0.
    """
    size = (*teacher_logits.shape[:-1], samples)
    uniforms = torch.rand(size, generator=generator, dtype=teacher_logits.dtype, device=teacher_logits.device)
    return targets_at(teacher_logits, uniforms, proposal_temperature=proposal_temperature)


def targets_at(teacher_logits: Tensor, uniforms: Tensor, *, proposal_temperature: float = 1.0) -> Sampled:
    """`sample_targets` by given numbers [N, S] in [0, 1): a row's draw depends on its own numbers alone.

    Token y is drawn where the proposal's probabilities up to y first exceed the number.
    """
    if proposal_temperature <= 0.0:
        raise ValueError(f"sample_targets: proposal_temperature is {proposal_temperature}; it must be above 0")
    teacher = teacher_logits.detach().log_softmax(-1)
    proposal = teacher if proposal_temperature == 1.0 else (teacher / proposal_temperature).log_softmax(-1)
    mass = proposal.exp().cumsum(-1)
    below_one = uniforms.to(mass.dtype).clamp(max=1.0 - 0.5 * torch.finfo(mass.dtype).eps)
    token_ids = torch.searchsorted(mass, below_one * mass[..., -1:], right=True).clamp(max=teacher.shape[-1] - 1)
    log_probs = teacher.gather(-1, token_ids)
    weights = (log_probs - proposal.gather(-1, token_ids)).exp() / uniforms.shape[-1]
    return Sampled(log_probs, token_ids.masked_fill(log_probs == -_INF, _PADDING), weights)


def log_sum_exp(values: Tensor) -> Tensor:
    """Over the last dimension; -inf, with a gradient of 0, where all of it is -inf or nothing is there."""
    if values.shape[-1] == 0:
        return values.new_full(values.shape[:-1], -_INF)
    high = values.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).min)
    total = (values - high).exp().sum(-1)
    some = total > 0
    return torch.where(some, torch.where(some, total, 1.0).log() + high.squeeze(-1), -_INF)


def log1mexp(values: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0, to full precision at either end."""
    return torch.where(values > -0.5, (-torch.expm1(values)).log(), torch.log1p(-values.exp()))


def cells(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Log-probabilities of the listed tokens, -inf at padding, and of all others together: [N, K + 1].

    Both sides go through here, so that they agree to the last bit where their logits do.
    """
    listed = token_ids != _PADDING
    high = logits.detach().amax(-1, keepdim=True)
    rest = functional.pad(logits, (0, 1), value=-_INF).sub_(high)
    rest = rest.scatter_(-1, token_ids.masked_fill(~listed, logits.shape[-1]), -_INF)
    chosen = (logits.gather(-1, token_ids.clamp(min=0)) - high).masked_fill(~listed, -_INF)
    return torch.cat([chosen, log_sum_exp(rest).unsqueeze(-1)], -1).log_softmax(-1)


def _tail_of(listed: Tensor, student: Tensor) -> Tensor:
    """log(1 - sum of the listed); what rounding may have left is no tail where the student has none either."""
    held = log_sum_exp(listed).clamp(max=0.0)
    tail = log1mexp(held)
    within_rounding = -torch.expm1(held) <= _ROUNDING * torch.finfo(listed.dtype).eps
    return tail.masked_fill(within_rounding & (student[..., -1] == -_INF), -_INF)
