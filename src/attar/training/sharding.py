"""Weights that several processes share between them (torch's FSDP2): sharded, put together, written and read in parts.

Each process holds its part of each weight, and of gradient and optimizer state. A layer of the student is gathered
while it runs, forward and backward; what is in no layer (embeddings, last norm, head, projectors) is gathered once a
micro-batch, so that a tied head is whole and in full precision where the loss projects by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from attar.training.checkpoints import OPTIMIZER, WEIGHTS, learned, load, load_learned


def shard(module: nn.Module, student: nn.Module, *, bf16: bool) -> None:
    """Shard `module`, which holds `student`, in place over all processes, which have the first one's weights then.

    With `bf16` layers are gathered in bfloat16, as autocast would have them, and gradients are summed in float32.
    """
    for value in [*module.parameters(), *module.buffers()]:
        dist.broadcast(value.data, 0)
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for layer in layers_of(student):
        fully_shard(layer, mp_policy=policy if bf16 else MixedPrecisionPolicy())
    fully_shard(module)


def layers_of(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that a model holds in lists: its layers, as Transformers builds models."""
    for part in model.children():
        if isinstance(part, nn.ModuleList):
            yield from part
        else:
            yield from layers_of(part)


def own_part(value: Tensor) -> Tensor:
    """What this process holds of a tensor: all of one that is not sharded."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole_state(module: nn.Module) -> dict[str, Any]:
    """`state_dict` with whole tensors on the CPU, in each process; all must call it."""
    return {
        name: value.full_tensor().cpu() if isinstance(value, DTensor) else value
        for name, value in module.state_dict().items()
    }


def save_state(place: Path, part: int | None, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write weights and moments; `part`: the number of the process, whose shards are written (None: all)."""
    torch.save(_own_parts(learned(module)), place / _named(WEIGHTS, part))
    torch.save(_own_parts(optimizer.state_dict()), place / _named(OPTIMIZER, part))


def load_weights(place: Path, part: int | None, module: nn.Module) -> None:
    """What `save_state` wrote, into a module that is sharded alike."""
    state = module.state_dict()
    parts = load(place / _named(WEIGHTS, part))
    load_learned(module, {name: _like(value, state[name]) for name, value in parts.items()})


def load_optimizer(place: Path, part: int | None, optimizer: torch.optim.Optimizer) -> None:
    """What `save_state` wrote. Moments are sharded as their weight is."""
    parts = load(place / _named(OPTIMIZER, part))
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {
        number: {name: _like(value, weights[number]) for name, value in kept.items()}
        for number, kept in parts["state"].items()
    }
    optimizer.load_state_dict({**parts, "state": state})


def _named(name: str, part: int | None) -> str:
    return name if part is None else f"{part}-{name}"


def _own_parts(state: Any) -> Any:
    """A state, tensors within dicts, with this process's part of each."""
    if isinstance(state, Mapping):
        return {name: _own_parts(value) for name, value in cast("Mapping[Any, Any]", state).items()}
    return own_part(state) if isinstance(state, Tensor) else state


def _like(part: Any, value: Any) -> Any:
    """The sharded tensor, as `value` is, of which this process holds `part`; numbers and plain tensors as they are."""
    if not isinstance(value, DTensor) or not isinstance(part, Tensor) or not part.dim():
        return part
    return DTensor.from_local(
        part.to(value.device), value.device_mesh, value.placements, shape=value.shape, stride=value.stride()
    )
