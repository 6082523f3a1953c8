"""What a training has taken: wall time, the part of it that went into steps, and rows."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Clock:
    """What a training has taken, over all the processes that carried it."""

    seconds: float = 0.0
    """Wall time before `started`."""
    aside: float = 0.0
    """Of all wall time, spent on evaluation and checkpoints."""
    rows: int = 0
    started: float = 0.0

    @property
    def total(self) -> float:
        """Wall time until now."""
        return self.seconds + time.perf_counter() - self.started

    @property
    def busy(self) -> float:
        """Wall time spent on steps."""
        return self.total - self.aside

    @contextmanager
    def apart(self) -> Generator[None]:
        """Count the block's time as spent aside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.aside += time.perf_counter() - start
