"""Checkpoints of a training: written whole or not at all, kept two at a time, and read only where this run wrote them.

A checkpoint is a folder `checkpoint-STEP`: weights of student and projectors, optimizer, schedule, scaler, random
states, Transformers' trainer state, and `complete.json`, which says what training it belongs to. Where weights are
sharded each process writes its own part of them. The folder gets its name when it is complete (a rename), so a killed
run leaves none that is half written.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from attar.errors import StorageError
from attar.storage import atomic_folder, guard

WEIGHTS, OPTIMIZER, SCHEDULE, STATE = "weights.pt", "optimizer.pt", "scheduler.pt", "trainer_state.json"
_PREFIX, _MARK, _BEST = "checkpoint-", "complete.json", "best-"
_KEPT = 2
_TORCH_SAYS = ("inline_container", "iostream error")
"""How torch's writer reports that it could not write."""


@dataclass(frozen=True)
class Mark:
    """What `complete.json` says: whose checkpoint it is, and what the training had taken until then."""

    key: str
    step: int
    seconds: float
    """Wall time, all processes of a run that was killed included."""
    busy: float
    """Of these, spent on training steps."""
    rows: int
    """Rows trained on."""
    best: int | None
    """Step of the best validation so far."""
    world: int = 1
    """Processes that train."""


class Checkpoints:
    """The checkpoints of one training in a folder that belongs to it alone. Raises StorageError where it cannot write.

    `key` is a hash of all that shapes the training.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def prepare(self) -> None:
        """Make the folder, and remove what another training or a killed one left in it."""
        with guard(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            whole = {path for path, _ in self._whole()}
            for path in self.folder.iterdir():
                if path.name.startswith((_PREFIX, f".{_PREFIX}", f".{_BEST}")) and path not in whole:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._prune_best(None)

    def newest(self) -> tuple[Path, Mark] | None:
        """The newest whole checkpoint of this training."""
        return max(self._whole(), key=lambda found: found[1].step, default=None)

    def history(self) -> list[dict[str, Any]]:
        """What was logged up to the newest checkpoint, as the trainer keeps it."""
        found = self.newest()
        return [] if found is None else json.loads((found[0] / STATE).read_text(encoding="utf-8"))["log_history"]

    @contextmanager
    def writing(self, mark: Mark) -> Generator[Path]:
        """Yield the folder that becomes `checkpoint-STEP` when the block ends well; then keep the last two."""
        with translated(self.folder), atomic_folder(self.folder / f"{_PREFIX}{mark.step}") as place:
            try:
                yield place
                (place / _MARK).write_text(json.dumps(asdict(mark)), encoding="utf-8")
                for file in place.iterdir():
                    _sync(file)
            except BaseException:
                shutil.rmtree(place, ignore_errors=True)  # a full disk needs the room
                raise
        for path, _ in sorted(self._whole(), key=lambda found: found[1].step)[:-_KEPT]:
            shutil.rmtree(path, ignore_errors=True)
        self._prune_best(mark.best)

    def save_best(self, step: int, weights: dict[str, Any]) -> None:
        """Put the student's weights of `step` aside. Those that a kept checkpoint calls its best stay until then."""
        place = self.folder / f"{_BEST}{step}.pt"
        partial = place.with_name(f".{place.name}")
        with translated(place):
            torch.save(weights, partial)
            _sync(partial)
            partial.replace(place)

    def load_best(self, step: int) -> dict[str, Any]:
        """The weights that `save_best` put aside at `step`."""
        return load(self.folder / f"{_BEST}{step}.pt")

    def _prune_best(self, best: int | None) -> None:
        named = {best, *(mark.best for _, mark in self._whole())}
        for file in self.folder.glob(f"{_BEST}*.pt"):
            if file.stem.removeprefix(_BEST) not in {str(step) for step in named}:
                file.unlink(missing_ok=True)

    def _whole(self) -> list[tuple[Path, Mark]]:
        found: list[tuple[Path, Mark]] = []
        for path in self.folder.glob(f"{_PREFIX}*/{_MARK}"):
            try:
                mark = Mark(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                continue
            if mark.key == self.key:
                found.append((path.parent, mark))
        return found


def learned(module: nn.Module) -> dict[str, Any]:
    """`state_dict` without what is frozen, as beside LoRA: that is the same before and after."""
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def load_learned(module: nn.Module, state: dict[str, Any]) -> None:
    """What `learned` gave, into the same module."""
    module.load_state_dict({**module.state_dict(), **state})


def load(path: Path) -> dict[str, Any]:
    """Tensors and plain values from a file; never runs what is pickled in it."""
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def translated(place: Path) -> Generator[None]:
    """Turn what a full disk or a read-only folder raises, torch's own error included, into StorageError."""
    try:
        with guard(place):
            yield
    except RuntimeError as error:
        if not any(word in str(error) for word in _TORCH_SAYS):
            raise
        free = shutil.disk_usage(place if place.is_dir() else place.parent).free
        raise StorageError(
            f"{place}: a checkpoint cannot be written: the disk is full ({free:,} bytes are free). Free some space; "
            "earlier checkpoints are kept, the same command resumes."
        ) from error


@contextmanager
def repeatable() -> Generator[None]:
    """Deterministic algorithms inside; afterwards these settings and all random states are as they were before."""
    fill = cast("Any", torch.utils).deterministic
    settings = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        fill.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )
    python, numpy_state = random.getstate(), np.random.get_state()
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=cuda):
            torch.use_deterministic_algorithms(True, warn_only=True)
            fill.fill_uninitialized_memory = False
            torch.backends.cudnn.benchmark = False
            yield
    finally:
        torch.use_deterministic_algorithms(settings[0], warn_only=settings[1])
        fill.fill_uninitialized_memory, torch.backends.cudnn.benchmark = settings[2:]
        random.setstate(python)
        np.random.set_state(numpy_state)


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
