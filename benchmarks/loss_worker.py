"""One case of `loss_memory.py` in a process of its own: builds the inputs, then answers questions on its stdin.

    python benchmarks/loss_worker.py '{"impl": "attar", "objective": "forward_kl", "tokens": 2048, ...}'

The work is that of a language model's last layer: hidden states [N, D] and heads [V, D] of both sides, float32, loss
forward and backward, with the gradients of the student's states and head. `gemm` is the four head products alone.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from attar.logits import Projection
from attar.objectives import response, sparse
from attar.objectives.crosstoken import uld
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import Share, Term
from attar.objectives.supervised import cross_entropy

Run = Callable[[], Tensor | None]
KEPT = 64
"""Stored tokens a row, for the sparse objectives."""


class Inputs:
    """Both sides, seeded: the student's states and head are leaves."""

    def __init__(self, tokens: int, vocabulary: int, width: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.hidden = torch.randn(tokens, width, generator=draw).mul_(0.5).requires_grad_()
        self.teacher_hidden = torch.randn(tokens, width, generator=draw).mul_(0.5)
        self.weight = torch.randn(vocabulary, width, generator=draw).mul_(0.1).requires_grad_()
        self.teacher_weight = torch.randn(vocabulary, width, generator=draw).mul_(0.1)
        self.labels = torch.randint(0, vocabulary, (tokens,), generator=draw)
        self.ids = torch.randint(0, vocabulary, (tokens, KEPT), generator=draw)
        self.some = torch.rand(tokens, generator=draw) < 0.5

    @property
    def given_gradients(self) -> int:
        """Bytes of the gradients that are handed back."""
        return 4 * (self.hidden.numel() + self.weight.numel())


def naive(inputs: Inputs) -> Tensor:
    """The textbook: all logits, two log-softmaxes, torch's own divergence."""
    student = (inputs.hidden @ inputs.weight.t()).log_softmax(-1)
    teacher = (inputs.teacher_hidden @ inputs.teacher_weight.t()).log_softmax(-1)
    return torch.nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def products(inputs: Inputs) -> None:
    """Four head products in blocks of 1,024 rows: both sides forward, states and head backward."""
    with torch.no_grad():
        for rows in torch.arange(len(inputs.hidden)).split(1024):
            block = slice(int(rows[0]), int(rows[-1]) + 1)
            logits = inputs.hidden[block] @ inputs.weight.t()
            _ = inputs.teacher_hidden[block] @ inputs.teacher_weight.t()
            _ = logits @ inputs.weight
            _ = logits.t() @ inputs.hidden[block]


def liger(inputs: Inputs, chunk_rows: int) -> Tensor:
    """Its chunked Jensen-Shannon loss at beta 0, forward KL; not compiled, as its backward products are not either."""
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False, chunk_size=chunk_rows
    )
    return loss(inputs.hidden, inputs.weight, inputs.teacher_hidden, inputs.teacher_weight, inputs.labels)


def trl(inputs: Inputs) -> Tensor:
    """Its chunked divergence at beta 0, with its own tile sizes."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    sides = (inputs.hidden, inputs.weight, None, inputs.teacher_hidden, inputs.teacher_weight, None)
    return ChunkedDivergenceFunction.apply(*sides, 0.0)[0].mean()


def shares_of(objective: str, inputs: Inputs) -> list[Share]:
    """The shares that attar's reduction is asked for; `a+b` is two terms."""
    n = len(inputs.hidden)
    teacher = Projection(inputs.teacher_hidden, inputs.teacher_weight)
    stored = torch.full((n, KEPT), -5.0).log_softmax(-1) - 0.1
    labels = {"labels": inputs.labels}
    known: dict[str, tuple[Callable[..., Tensor], Projection | Tensor, dict[str, Tensor | float]]] = {
        "hard_labels": (cross_entropy, inputs.labels, {}),
        "taid": (response.taid, teacher, {"progress": 0.5}),
        "dkd": (response.dkd, teacher, labels),
        "ofa": (response.ofa, teacher, labels),
        "sampled_token": (response.sampled_token, teacher, {"token_ids": inputs.labels}),
        "contrastive_skew": (response.contrastive_skew, teacher, {"on_policy": inputs.some}),
        "sparse_kl": (sparse.sparse_kl, stored, {"token_ids": inputs.ids}),
        "sampled_kl": (
            sparse.sampled_kl,
            stored,
            {"token_ids": inputs.ids, "weights": torch.full((n, KEPT), 1 / KEPT)},
        ),
        "uld": (uld, teacher, {}),
    }
    shares: list[Share] = []
    for name in objective.split("+"):
        function, target, given = known.get(name) or (getattr(response, name), teacher, {})
        shares.append(Share(Term(name, function), target, None, n, given))
    return shares


def build(case: dict[str, object], inputs: Inputs) -> Run:
    """What is timed: forward and backward."""
    match case["impl"]:
        case "gemm":
            return lambda: products(inputs)
        case "naive":
            return lambda: naive(inputs)
        case "trl":
            return lambda: trl(inputs)
        case "liger":
            return lambda: liger(inputs, int(str(case["chunk_rows"])))
        case _:
            shares = shares_of(str(case["objective"]), inputs)
            student = Projection(inputs.hidden, inputs.weight)
            return lambda: reduce_rows(student, shares).total


def once(run: Run, inputs: Inputs) -> float:
    """Seconds of one forward and backward; the gradients are dropped after."""
    inputs.hidden.grad = inputs.weight.grad = None
    start = time.perf_counter()
    loss = run()
    if loss is not None:
        loss.backward()
    return time.perf_counter() - start


def resident(field: str) -> int:
    """Bytes, `VmRSS` or `VmHWM`, of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def give_back() -> None:
    """Return what is free to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_extra(run: Run, inputs: Inputs) -> int:
    """Peak bytes of one forward and backward beyond the inputs and the gradients handed back."""
    give_back()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    once(run, inputs)
    return resident("VmHWM") - before - inputs.given_gradients


def main() -> None:
    """Warm up on a few rows, then answer `memory` and `time` until the input ends."""
    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    size = partial(Inputs, vocabulary=case["vocabulary"], width=case["width"])
    small = size(64)
    once(build(case, small), small)
    del small
    inputs = size(case["tokens"])
    run = build(case, inputs)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        question = line.strip()
        answer = peak_extra(run, inputs) if question == "memory" else once(run, inputs)
        inputs.hidden.grad = inputs.weight.grad = None
        give_back()  # some thirty workers wait for their turn
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
