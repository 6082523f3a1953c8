"""Counters of energy that a test moves by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def powercap(root: Path, zones: dict[str, str], full: int = 1_000_000) -> Path:
    """A tree as Linux has it: `zones` are names by path (`intel-rapl:0/intel-rapl:0:1`), all counters at 0."""
    for place, name in zones.items():
        folder = root / place
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{full}\n")
        move(folder, 0)
    return root


def move(folder: Path, microjoules: int) -> None:
    (folder / "energy_uj").write_text(f"{microjoules}\n")


class FakeNvml:
    """The driver's library, for one device; `codes` are what its functions return, 0 is success."""

    def __init__(self, uuid: str = "GPU-1", millijoules: int = 0, **codes: int) -> None:
        self.uuid, self.millijoules, self.codes = uuid, millijoules, codes

    def nvmlInit_v2(self) -> int:
        return self.codes.get("init", 0)

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, device: Any) -> int:
        return self.codes.get("handle", 0 if uuid.decode() == self.uuid else 6)

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, told: Any) -> int:
        told._obj.value = self.millijoules
        return self.codes.get("energy", 0)
