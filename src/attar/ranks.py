"""Several processes of one run, as torchrun starts them: who is first, and how the others wait for what it does."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from attar.errors import AttarError, TrainingError

Found = TypeVar("Found")
_PATIENCE = timedelta(days=30)
"""How long the others wait for the first: labelling and evaluation take what they take."""


def world() -> int:
    """Processes that train together, as torchrun says; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(eq=False)
class Ranks:
    """The processes of a run, seen from one of them. By itself a process is first, and waits for nobody."""

    world: int = 1
    rank: int = 0
    _group: Any = None
    """A gloo group whose members may wait long for each other."""
    _alone: bool = False
    """Whether the first is at work while the others wait."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def by_first(self, work: Callable[[], Found]) -> Found:
        """What `work` gives in the first process, which alone does it; the others wait, however long.

        What it gives must be picklable. What it raises is raised everywhere. Within `work` the first
        asks nobody to wait again.
        """
        if self._group is None or self._alone:
            return work()
        told: list[Any] = [None]
        if self.first:
            self._alone = True
            try:
                told = [(work(), None)]
            except BaseException as error:
                with suppress(RuntimeError):  # the others may be gone
                    dist.broadcast_object_list([(None, _packed(error))], group=self._group)
                raise
            finally:
                self._alone = False
        dist.broadcast_object_list(told, group=self._group)
        found, failure = told[0]
        if failure is not None:
            raise _unpacked(*failure)
        return found

    def gathered(self, value: Found) -> list[Found]:
        """The `value` of each process, in their order; all call it. It must be picklable."""
        if self._group is None or self._alone:
            return [value]
        told: list[Any] = [None] * self.world
        dist.all_gather_object(told, value, group=self._group)
        return told

    def require_same(self, value: str, what: str) -> None:
        """Raises TrainingError in a process whose `value` is not the first's; all call it."""
        if (first := self.by_first(lambda: value)) != value:
            raise TrainingError(
                f"process {self.rank} of {self.world}: {what} is not the same as in the first process ({value[:12]}, "
                f"not {first[:12]}). All must see the same recipe, data, models and versions of packages."
            )


ALONE = Ranks()


@contextmanager
def joined(timeout: float) -> Generator[Ranks]:
    """Let the processes that torchrun started find each other, for the time of the block.

    `timeout`: seconds after which a process that does not answer in the midst of training is given up. A group that is
    there already is used and left as it is. Raises TrainingError where the processes do not find each other.
    """
    if world() == 1:
        yield ALONE
        return
    mine = not dist.is_initialized()
    if mine:
        _meet(timedelta(seconds=timeout))
    if dist.get_world_size() != world():
        raise TrainingError(
            f"torchrun started {world()} processes, but {dist.get_world_size()} are in the group that was made before."
        )
    try:
        yield Ranks(world(), dist.get_rank(), dist.new_group(backend="gloo", timeout=_PATIENCE))
    finally:
        if mine:
            dist.destroy_process_group()


def _meet(timeout: timedelta) -> None:
    """Each process takes the GPU of its number on its machine, where there are any."""
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        # torchrun keeps one store over its restarts: what an earlier attempt wrote there leads to dead processes.
        store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)
    except (ValueError, RuntimeError) as error:
        raise TrainingError(
            f"WORLD_SIZE says that {world()} processes work together, but they do not find each other: {error}. Start "
            "them with torchrun --nproc_per_node N -m attar distill RECIPE, or unset WORLD_SIZE."
        ) from error


def _packed(error: BaseException) -> tuple[type[AttarError], tuple[Any, ...], dict[str, Any]]:
    if isinstance(error, AttarError):
        return type(error), error.args, vars(error)
    return AttarError, (f"the first process stopped: {type(error).__name__}: {error}",), {}


def _unpacked(kind: type[AttarError], args: tuple[Any, ...], fields: dict[str, Any]) -> AttarError:
    """As it was raised in the first process, without its constructor, which may want other arguments."""
    error = kind.__new__(kind, *args)
    vars(error).update(fields | {"told": True})
    return error
