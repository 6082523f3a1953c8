"""Lazy logits: the same loss and gradients as dense ones, wherever a training puts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attar.errors import TrainingError
from attar.logits import Projection
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import Share, Term
from attar.objectives.response import forward_kl, jsd, reverse_kl
from attar.objectives.supervised import cross_entropy

N, V, D = 10, 23, 6
KL = Term("forward_kl", forward_kl, 0.7, temperature=2.0, temperature_power=2)
NLL = Term("hard_labels", cross_entropy, 0.3)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def parts(**options: object) -> Projection:
    hidden, weight, bias = draw(N, D, seed=1), draw(V, D, seed=2), draw(V, seed=3)
    return Projection(*(part.requires_grad_() for part in (hidden, weight, bias)), **options)


def shares(teacher: Tensor | Projection) -> list[Share]:
    labels, keep = torch.arange(N), torch.arange(N) % 3 > 0
    return [Share(KL, teacher, keep, 20), Share(NLL, labels, torch.arange(N) < 4, 4)]


def found(total: Tensor, logits: Projection) -> list[Tensor]:
    leaves = [part for part in (logits.hidden, logits.weight, logits.bias) if part is not None and part.requires_grad]
    return [total.detach(), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("chunk_rows", [None, 1, 3])
@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"softcap": 2.0}, {"scale": 1.7, "softcap": 5.0}])
def test_loss_and_gradients_are_those_of_dense_logits(options: dict[str, float], chunk_rows: int | None) -> None:
    lazy, teacher = parts(**options), Projection(draw(N, 4, seed=4), draw(V, 4, seed=5), softcap=3.0)
    by_hand = lazy.hidden @ lazy.weight.T + lazy.bias
    by_hand = by_hand * options.get("scale", 1.0)
    cap = options.get("softcap")
    by_hand = by_hand if cap is None else cap * (by_hand / cap).tanh()
    torch.testing.assert_close(lazy.dense(), by_hand)
    ours, theirs, keep = by_hand / 2, 3 * (teacher.hidden @ teacher.weight.T / 3).tanh() / 2, torch.arange(N) % 3 > 0
    expected = (
        0.7 * 4 * forward_kl(ours, theirs)[keep].sum() / 20 + 0.3 * cross_entropy(by_hand, torch.arange(N))[:4].mean()
    )
    reduced = reduce_rows(lazy, shares(teacher), chunk_rows=chunk_rows)
    torch.testing.assert_close(found(reduced.total, lazy), found(expected, lazy))


def test_tied_embeddings_add_their_gradients() -> None:
    """The head's weight is the embedding: autograd adds what both uses give."""
    table, ids = draw(V, D, seed=2).requires_grad_(), torch.arange(N) % V
    teacher = draw(N, V, seed=4)
    grads = []
    for lazy in (True, False):
        hidden = table[ids].tanh()
        logits = Projection(hidden, table) if lazy else hidden @ table.T
        (grad,) = torch.autograd.grad(reduce_rows(logits, [Share(KL, teacher, None, N)]).total, table)
        grads.append(grad)
    torch.testing.assert_close(*grads)


def test_a_frozen_head_costs_no_weight_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with LoRA: no [V, D] gradient is made."""
    made: list[torch.Size] = []
    for name in ("zeros", "empty"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, make=make, **k: made.append(make(*a, **k).shape) or make(*a, **k))
    hidden, weight = draw(N, D, seed=1).requires_grad_(), draw(V, D, seed=2)
    total = reduce_rows(Projection(hidden, weight), [Share(KL, draw(N, V, seed=4), None, N)]).total
    total.backward()
    assert hidden.grad is not None
    assert (V, D) not in made
    reduce_rows(Projection(hidden, weight.requires_grad_()), [Share(KL, draw(N, V, seed=4), None, N)])
    assert (V, D) in made


def test_without_gradients_nothing_is_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: pytest.fail("asked for a gradient"))
    with torch.no_grad():
        total = reduce_rows(parts(), [Share(KL, draw(N, V, seed=4), None, N)]).total
    assert not total.requires_grad


def test_only_kept_rows_are_projected() -> None:
    rows: list[int] = []

    def spy(student: Tensor, teacher: Tensor) -> Tensor:
        rows.append(len(student))
        return forward_kl(student, teacher)

    hidden = draw(N, D, seed=1)
    hidden[3:] = torch.nan
    leaf, keep = hidden.requires_grad_(), torch.arange(N) < 3
    lazy = Projection(leaf, draw(V, D, seed=2))
    total = reduce_rows(lazy, [Share(Term("spy", spy), draw(N, V, seed=4), keep, 3)], chunk_rows=2).total
    total.backward()
    assert rows == [2, 1]
    assert torch.isfinite(total)
    assert (leaf.grad[3:] == 0).all()


def test_several_terms_share_one_projection_of_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[tuple[torch.Size, torch.Size]] = []
    import attar.logits as module

    real = module._product
    monkeypatch.setattr(module, "_product", lambda a, b: products.append((a.shape, b.shape)) or real(a, b))
    teacher = Projection(draw(N, 4, seed=4), draw(V, 4, seed=5))
    terms = [Term("a", forward_kl), Term("b", reverse_kl, 0.5), Term("c", jsd)]
    reduce_rows(parts(), [Share(term, teacher, None, N) for term in terms]).total.backward()
    assert len(products) == 3  # both heads forward, the states' gradient; the weight's is an addmm


def test_bf16_states_and_head_are_within_one_per_cent_of_float64_at_a_kl_of_one_hundredth() -> None:
    hidden, weight = draw(64, 32, seed=1).bfloat16(), draw(500, 32, seed=2).bfloat16()
    teacher = hidden.double() @ weight.double().T + 0.15 * draw(64, 500, seed=3)
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        leaves = [part.detach().to(dtype).requires_grad_() for part in (hidden, weight)]
        share = Share(Term("forward_kl", forward_kl), teacher.float() if dtype is torch.bfloat16 else teacher, None, 64)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            total = reduce_rows(Projection(*leaves), [share]).total
        total.backward()
        results.append([total.detach().double(), *(leaf.grad.double() for leaf in leaves)])
    assert 0.005 < float(results[1][0]) < 0.02
    for ours, exact in zip(*results, strict=True):
        assert float((ours - exact).norm() / exact.norm()) < 0.01


class Model(nn.Module):
    """A body and a tied head; the loss is computed in forward, as a distillation's outer module does."""

    def __init__(self, lazy: bool, checkpointed: bool = False) -> None:
        super().__init__()
        self.lazy, self.checkpointed = lazy, checkpointed
        self.table = nn.Parameter(draw(V, D, seed=2))
        self.body = nn.Linear(D, D).double()
        nn.init.normal_(self.body.weight, generator=torch.Generator().manual_seed(7))
        nn.init.zeros_(self.body.bias)

    def forward(self, ids: Tensor, teacher: Tensor, count: float = 20) -> Tensor:
        states = self.table[ids]
        hidden = checkpoint(self.body, states, use_reentrant=False) if self.checkpointed else self.body(states)
        logits = Projection(hidden, self.table) if self.lazy else hidden @ self.table.T
        return reduce_rows(logits, [Share(KL, teacher, None, count)], chunk_rows=3).total


IDS, TEACHER = torch.arange(20) % V, draw(20, V, seed=9)


def gradients(model: nn.Module, run: Callable[[nn.Module], None]) -> dict[str, Tensor]:
    run(model)
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}


def whole(model: nn.Module) -> None:
    model(IDS, TEACHER).backward()


def accumulated(model: nn.Module) -> None:
    for rows in (slice(0, 3), slice(3, 11), slice(11, 20)):
        model(IDS[rows], TEACHER[rows]).backward()


@pytest.mark.parametrize(("options", "run"), [({}, whole), ({}, accumulated), ({"checkpointed": True}, accumulated)])
def test_accumulation_and_activation_checkpointing(options: dict[str, bool], run: Callable[[nn.Module], None]) -> None:
    expected = gradients(Model(lazy=False), whole)
    torch.testing.assert_close(gradients(Model(lazy=True, **options), run), expected)


def test_a_compiled_model_gives_the_same() -> None:
    compiled = torch.compile(Model(lazy=True), backend="aot_eager")
    found = {name.removeprefix("_orig_mod."): grad for name, grad in gradients(compiled, whole).items()}
    torch.testing.assert_close(found, gradients(Model(lazy=False), whole))


def _process(rank: int, folder: str, sharded: bool) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", world_size=2, rank=rank)
    try:
        model = Model(lazy=True)
        half = slice(0, 12) if rank == 0 else slice(12, 20)
        if sharded:
            from torch.distributed.fsdp import fully_shard

            module = fully_shard(model)
        else:
            module = nn.parallel.DistributedDataParallel(model)
        (module(IDS[half], TEACHER[half]) * 2).backward()  # both average over processes
        grads = {n.removeprefix("module."): p.grad for n, p in module.named_parameters()}
        if sharded:
            grads = {name: grad.full_tensor() for name, grad in grads.items()}
        if rank == 0:
            torch.save(grads, f"{folder}/grads.pt")
    finally:
        torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads may still hold tensors, whose end within the interpreter's own aborts the process


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_two_processes_give_the_gradients_of_one(sharded: bool, tmp_path: Path) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mp.spawn(_process, (str(tmp_path), sharded), nprocs=2)
    found = torch.load(tmp_path / "grads.pt", weights_only=True)
    torch.testing.assert_close(found, gradients(Model(lazy=False), whole))


# What is refused.


def test_second_derivatives_are_refused_with_a_message() -> None:
    lazy = parts()
    total = reduce_rows(lazy, [Share(KL, draw(N, V, seed=4), None, N)]).total
    with pytest.raises(TrainingError, match="no second derivative"):
        torch.autograd.grad(total, lazy.hidden, create_graph=True)


def test_a_second_backward_pass_is_refused() -> None:
    lazy = parts()
    total = reduce_rows(lazy, [Share(KL, draw(N, V, seed=4), None, N)]).total
    total.backward(retain_graph=True)
    with pytest.raises(TrainingError, match="went backward already"):
        total.backward()


def test_a_function_with_a_parameter_of_its_own_is_refused() -> None:
    scale = nn.Parameter(torch.ones((), dtype=torch.float64))
    own = Term("own", lambda s, t: (scale * s - t).square().sum(-1))
    with pytest.raises(TrainingError, match=r"own: the function reads a tensor \[\] that wants a gradient"):
        reduce_rows(parts(), [Share(own, draw(N, V, seed=4), None, N)])


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(TrainingError, match=r"hidden \[N, D\] and weight \[V, D\]; got \[2, 3, 4\]"):
        Projection(torch.zeros(2, 3, 4), torch.zeros(5, 4))
    with pytest.raises(TrainingError, match=r"bias is \[4\]"):
        Projection(torch.zeros(3, 4), torch.zeros(5, 4), torch.zeros(4))
    with pytest.raises(TrainingError, match="10 student rows, but 9 target rows"):
        reduce_rows(parts(), [Share(KL, draw(9, V, seed=4), None, N)])


def test_a_broken_row_of_a_projection_is_named() -> None:
    hidden = draw(N, D, seed=1)
    hidden[7, 2] = torch.nan
    with pytest.raises(TrainingError, match="forward_kl: row 7: the student is nan at token 0"):
        reduce_rows(Projection(hidden, draw(V, D, seed=2)), [Share(KL, draw(N, V, seed=4), None, N)], chunk_rows=4)
