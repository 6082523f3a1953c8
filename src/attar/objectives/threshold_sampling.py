"""Few tokens a row with unbiased weights: the likely ones are kept, of the others some are drawn, all at one weight.

A token of probability p comes with probability min(1, p / t), and its weight is max(p, t): p where it is sure, t where
it was drawn. So each weight's mean is p, the weights of a row sum to 1, and no token comes twice. Where the list of
`sparse_kl` says nothing of what it leaves out, this says it without bias; and the noise of `sample_targets` stays out
of the tokens that hold most of the mass.

Systematic sampling of unequal probabilities, Madow 1949 ("On the theory of systematic sampling, II"), as the R package
`sampling` documents it (`inclusionprobabilities`, `UPsystematic`); the paper itself was not read. Shape letters: N
rows, V tokens, M tokens kept or drawn, K of them kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.signals import Sampled

THRESHOLD = 0.02
"""Of SmolLM2 about 17 tokens a row are kept or drawn at it, 38 bytes when stored (see benchmarks/README.md)."""
MOST = 256
"""No more than 1 / t + 1 are ever needed."""
_INF = float("inf")
_PADDING = -1


def threshold_targets(
    teacher_logits: Tensor,
    threshold: float = THRESHOLD,
    *,
    most: int = MOST,
    generator: torch.Generator | None = None,
) -> Sampled:
    """Keep or draw tokens of each row for `sampled_kl`, kept ones first.

    [N, V], float32 or float64, at the temperature in use. `threshold` in [0, 1): t, or a little less, so that all
    weights of a row sum to 1; where more than `most` tokens would be needed, t is as much larger as has to be. With a
    threshold of 0 each row has `most` tokens, or all that are possible. M is the most of any row; the others are padded
    with id -1. Raises ValueError where an option is out of range.

    One threshold for all rows gives rows as many tokens as their uncertainty needs: for the same number in all, the
    noise of the mean over rows is least where all have one t (if the student errs alike on what is drawn).
    """
    size, device = teacher_logits.shape[:-1], teacher_logits.device
    uniforms = torch.rand(size, generator=generator, dtype=torch.float64, device=device)
    return threshold_targets_at(teacher_logits, uniforms, threshold, most=most)


def threshold_targets_at(
    teacher_logits: Tensor, uniforms: Tensor, threshold: float = THRESHOLD, *, most: int = MOST
) -> Sampled:
    """`threshold_targets` by a given number a row, [N] in [0, 1): a row's draw depends on its own number alone.

    Drawn are the tokens that hold the points (j + u) t of the mass that is not kept, in the vocabulary's order.
    """
    if not 0.0 <= threshold < 1.0:
        raise ValueError(f"threshold_targets: threshold is {threshold}; it must be in [0, 1)")
    if most < 1:
        raise ValueError(f"threshold_targets: most is {most}; it must be at least 1")
    teacher = teacher_logits.detach().double().log_softmax(-1)
    mass = teacher.exp()
    likeliest = mass.topk(min(most, mass.shape[-1]), dim=-1)
    slots = _slots(mass, threshold, likeliest.values.shape[-1])
    kept = _kept(likeliest.values, slots)
    rank = torch.arange(int(slots.max()) if slots.numel() else 0, device=mass.device)
    is_kept, is_drawn = rank < kept.unsqueeze(-1), rank < slots.unsqueeze(-1)
    kept_ids = likeliest.indices[..., : len(rank)]
    rest = mass.scatter(-1, kept_ids, mass.gather(-1, kept_ids).masked_fill(is_kept, 0.0)).cumsum(-1)
    total = rest[..., -1:]
    weight = total / (slots - kept).clamp(min=1).unsqueeze(-1)
    points = (rank - kept.unsqueeze(-1) + uniforms.unsqueeze(-1)) * weight
    within = torch.minimum(points.clamp(min=0.0), total * (1.0 - 1e-15))
    drawn_ids = torch.searchsorted(rest, within, right=True).clamp(max=mass.shape[-1] - 1)
    token_ids = torch.where(is_kept, kept_ids, drawn_ids)
    log_probs = teacher.gather(-1, token_ids)
    weights = torch.where(is_kept, log_probs.exp(), weight)
    there = (is_kept | (is_drawn & (total > 0.0))) & (log_probs > -_INF)
    return Sampled(
        log_probs.masked_fill(~there, -_INF).to(teacher_logits.dtype),
        token_ids.masked_fill(~there, _PADDING),
        weights.masked_fill(~there, 0.0).to(teacher_logits.dtype),
    )


def _slots(mass: Tensor, threshold: float, most: int) -> Tensor:
    """Tokens of each row, int64 [N]: as many as are expected at `threshold`, rounded up."""
    if threshold == 0.0:
        return torch.full(mass.shape[:-1], most, device=mass.device)
    return (mass / threshold).clamp(max=1.0).sum(-1).sub(1e-9).ceil().long().clamp(1, most)


def _kept(likeliest: Tensor, slots: Tensor) -> Tensor:
    """How many of the `likeliest` [N, K], in descending order, are kept, int64 [N]: those above t.

    The first is drawn that has no more than its share of what is left for the slots that are left.
    """
    before = likeliest.cumsum(-1) - likeliest
    left = slots.unsqueeze(-1) - torch.arange(likeliest.shape[-1], device=likeliest.device)
    drawn = (likeliest * left <= (1.0 - before).clamp(min=0.0)) | (left <= 1)
    return drawn.int().argmax(-1)
