"""The probe before the first step: how large is each term's gradient with respect to the student's parameters?

It looks at the network as it will be trained: dropout on and batch normalisation by the batch (before the first step
its running statistics say nothing), the first steps' rows in their order, in float32; schedules stand at their middle.
What it draws comes from a random state of its own, and buffers are put back, so that the training after it is the one
without it but for the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from attar.training.rows import Batch, Batches
from attar.training.trainer import DistilTrainer

_STEPS = 4
"""Steps whose gradients are measured."""
_MIDDLE = 0.5
"""Share of the training that schedules take to be behind: at the start TAID's target may be the student itself."""


def gradient_norms(trainer: DistilTrainer, names: Sequence[str]) -> dict[str, float]:
    """Of each named term, at weight 1: the norm of a step's gradient, as the mean over the first few steps.

    The first process measures the steps of all; every process gets its numbers.
    """
    found = [dict.fromkeys(names, 0.0)]
    if trainer.args.process_index == 0:
        batches = _whole_steps(trainer.batches)
        found = [{name: _mean_norm(trainer, batches, name) for name in names}]
    if trainer.args.world_size > 1:
        dist.broadcast_object_list(found)
    return found[0]


def _whole_steps(batches: Batches) -> list[list[Batch]]:
    """The micro-batches of the first steps, those of all processes."""
    pieces = batches.accumulate * batches.world
    whole = Batches(batches.lengths, batch_size=batches.batch_size, accumulate=pieces, seed=batches.seed)
    first = [batch for batch, _ in zip(whole, range(_STEPS * whole.a_step), strict=False)]
    return [first[start : start + whole.a_step] for start in range(0, len(first), whole.a_step)]


def _mean_norm(trainer: DistilTrainer, steps: Sequence[Sequence[Batch]], name: str) -> float:
    distil = trainer.distil
    buffers = {key: value.clone() for key, value in distil.named_buffers()}
    training, cuda = distil.training, trainer.args.device.type == "cuda"
    with torch.random.fork_rng(devices=[trainer.args.device] if cuda else []):
        torch.manual_seed(trainer.args.seed)
        distil.train()
        norms = [_norm(trainer, step, name) for step in steps]
    distil.train(training)
    with torch.no_grad():
        for key, value in distil.named_buffers():
            value.copy_(buffers[key])
    return sum(norms) / len(norms)


def _norm(trainer: DistilTrainer, step: Sequence[Batch], name: str) -> float:
    distil = trainer.distil
    learned = [parameter for parameter in distil.student.parameters() if parameter.requires_grad]
    made = [trainer.micro_batch(batch) for batch in step]
    kept = [distil.kept(one) for one in made]
    counts = {key: sum(one[key] for one in kept) for key in kept[0]}
    total = [torch.zeros_like(parameter) for parameter in learned]
    for batch in made:
        loss, _ = cast("tuple[Tensor, Any]", distil(**batch, counts=counts, progress=_MIDDLE, alone=name))
        gradients = cast("tuple[Tensor | None, ...]", torch.autograd.grad(loss, learned, allow_unused=True))
        for so_far, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                so_far += gradient
    return float(torch.stack([gradient.double().square().sum() for gradient in total]).sum().sqrt())
