"""What stages cost: measured while they work, and written down beat by beat, so that a killed attempt counts too."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from attar.bench.energy import Meter, Nvml, Rapl, plus
from attar.errors import StorageError
from attar.facts import SpentFacts
from attar.ranks import ALONE, Ranks
from attar.storage import atomic_write

BEAT = 10.0
"""Seconds: a killed attempt is known to this. RAPL's counters take minutes at least to go round."""
FOLDER = "costs"


def meter_for(device: str = "cpu") -> Callable[[], Meter]:
    """Starts meters for work on a device: RAPL is read by the first process of a machine, NVML by the device's own."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    rapl = Rapl.find()
    nvml = _nvml(device) if device.startswith("cuda") else None
    return lambda: Meter(rapl if first else None, nvml, used=device != "cpu", elsewhere=rapl is not None and not first)


def _nvml(device: str) -> Nvml | None:
    import torch

    properties: Any = torch.cuda.get_device_properties(torch.device(device))
    return Nvml.find(f"GPU-{properties.uuid}")


@dataclass
class Attempt:
    """One try of a stage."""

    meter: Meter
    result: SpentFacts | None = None
    """What it took, once it is done; None: it was not."""
    replaced: SpentFacts | None = None
    """What a finished attempt took whose result this one's replaces."""

    def spent(self, ranks: Ranks = ALONE) -> SpentFacts:
        """Until now; of all processes of `ranks`, which must all ask."""
        all_of_them = ranks.gathered(self.meter.spent())
        return reduce(plus, all_of_them).model_copy(update={"seconds": max(one.seconds for one in all_of_them)})


@dataclass
class Costs:
    """What attempts took whose result is not used: a small file a stage, below `folder`.

    It holds the sum of those that are over, `before`, and what the present one took at its last beat, `running`.
    """

    folder: Path
    meter: Callable[[], Meter] = field(default_factory=meter_for)

    @contextmanager
    def attempt(self, name: str, *, writes: bool = True) -> Generator[Attempt]:
        """Measure a try of a stage. Unless its `result` is set when the block ends, it counts among those before."""
        one, over = Attempt(self.meter()), threading.Event()
        if not writes:
            yield one
            return
        before = self.before(name)
        self._write(name, before, None)

        def beat() -> None:
            while not over.wait(BEAT):
                with suppress(StorageError):  # the stage itself will meet the full disk
                    self._write(name, before, one.meter.spent())

        thread = threading.Thread(target=beat, name=f"costs of {name}", daemon=True)
        thread.start()
        try:
            yield one
        finally:
            over.set()
            thread.join()
            with suppress(StorageError):
                self._write(name, _sum(before, one.replaced), None if one.result is not None else one.meter.spent())

    def before(self, name: str) -> SpentFacts | None:
        """What earlier attempts of a stage took; None: there were none."""
        return _read(self._file(name))

    def of_others(self, names: Collection[str]) -> SpentFacts | None:
        """What attempts of all other stages took, such as exports that were refused."""
        own = {self._file(name) for name in names}
        others = [_read(file) for file in sorted((self.folder / FOLDER).glob("*.json")) if file not in own]
        return reduce(_sum, others, None)

    def _write(self, name: str, before: SpentFacts | None, running: SpentFacts | None) -> None:
        parts = {"before": before, "running": running}
        known = {part: one.model_dump(mode="json") for part, one in parts.items() if one is not None}
        if known:
            atomic_write(self._file(name), json.dumps(known))
        else:
            self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.folder / FOLDER / f"{name.replace('/', '-')}.json"


def _read(file: Path) -> SpentFacts | None:
    """Both parts of a file; nothing is known where it is absent or damaged."""
    try:
        parts: dict[str, Any] = json.loads(file.read_bytes())
        return reduce(_sum, [SpentFacts.model_validate(part) for part in parts.values()], None)
    except (OSError, ValueError, ValidationError, AttributeError):
        return None


def _sum(one: SpentFacts | None, other: SpentFacts | None) -> SpentFacts | None:
    return one or other if one is None or other is None else plus(one, other)
