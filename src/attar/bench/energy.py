"""Energy: read from counters where the machine has them, else an interval from processor seconds that says it is one.

In this order: NVML for an NVIDIA device that was used; RAPL (Linux's powercap files) for processors and memory; where
that cannot be read, processor seconds times stated watts a busy core. Asks no network. An estimate holds the
processor's cores alone: not memory, disk, screen, nor what the power supply loses.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from attar.facts import BreakEvenFacts, CarbonFacts, JoulesFacts, SpentFacts

POWERCAP = Path("/sys/class/powercap")
_NVML = "libnvidia-ml.so.1"
_JOULES_A_KWH = 3.6e6
_RESAMPLES = 2000
_SAME = 1e-9


class Rapl:
    """Joules that this machine's packages and their memory have taken, from the kernel's powercap files.

    A counter starts anew when it is full (hours or minutes, by its power): `read` must be called more often than that.
    """

    def __init__(self, zones: Sequence[Path]) -> None:
        """Folders with `energy_uj` and `max_energy_range_uj`. Raises OSError or ValueError where one cannot be read."""
        self._zones = [(zone / "energy_uj", _number(zone / "max_energy_range_uj")) for zone in zones]
        self._last = [_number(file) for file, _ in self._zones]
        self._joules, self._lock = 0.0, threading.Lock()

    @classmethod
    def find(cls, root: Path = POWERCAP) -> Self | None:
        """Every package, and memory that is no part of one; None where there are none, or only root may read them."""
        try:
            packages = [zone for zone in sorted(root.glob("intel-rapl:*")) if _name(zone).startswith("package")]
            memory = [zone for package in packages for zone in sorted(package.glob("*:*")) if _name(zone) == "dram"]
            return cls([*packages, *memory]) if packages else None
        except (OSError, ValueError):
            return None

    def read(self) -> float:
        """Joules since this was made."""
        with self._lock:
            for place, (file, full) in enumerate(self._zones):
                now = _number(file)
                self._joules += (now - self._last[place]) % (full + 1) / 1e6
                self._last[place] = now
            return self._joules


class Nvml:
    """Joules that one NVIDIA device has taken since its driver was loaded, by the driver's own library."""

    def __init__(self, library: Any, device: Any) -> None:
        self._library, self._device = library, device

    @classmethod
    def find(cls, uuid: str, library: Any = None) -> Self | None:
        """The device of a UUID (`GPU-…`); None without the driver's library, or where the device has no counter."""
        try:
            found = ctypes.CDLL(_NVML) if library is None else library
            device = ctypes.c_void_p()
            if found.nvmlInit_v2() or found.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)):
                return None
            one = cls(found, device)
            one.read()
        except (OSError, AttributeError):
            return None
        return one

    def read(self) -> float:
        """Joules. Raises OSError where the driver does not tell."""
        millijoules = ctypes.c_ulonglong()
        code = self._library.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(millijoules))
        if code:
            raise OSError(f"NVML: error {code}")
        return millijoules.value / 1e3


def read(counter: Rapl | Nvml | None) -> float | None:
    """What a counter tells, in joules; None where there is none, or it fails: no work ends for that."""
    try:
        return None if counter is None else counter.read()
    except (OSError, ValueError):
        return None


class Meter:
    """Measures what this process and its finished children take from the time that it is made.

    `used`: an accelerator is. `elsewhere`: another process has the machine's RAPL counters, which tell of all.
    """

    def __init__(
        self, rapl: Rapl | None = None, nvml: Nvml | None = None, *, used: bool = False, elsewhere: bool = False
    ) -> None:
        self._rapl, self._nvml, self._used, self._elsewhere = rapl, nvml, used, elsewhere
        self._start = self._now()

    def spent(self) -> SpentFacts:
        """Since it was made."""
        return minus(self._now(), self._start)

    def _now(self) -> SpentFacts:
        times, device = os.times(), read(self._nvml)
        return SpentFacts(
            seconds=time.perf_counter(),
            cpu_seconds=time.process_time() + times.children_user + times.children_system,
            processor_joules=0.0 if self._elsewhere else read(self._rapl),
            accelerator_joules=device,
            unread=self._used and device is None,
        )


def plus(one: SpentFacts, other: SpentFacts) -> SpentFacts:
    """Both. Where a counter told of one alone, the sum is not known by it: then processor seconds count for both."""
    return SpentFacts(
        seconds=one.seconds + other.seconds,
        cpu_seconds=one.cpu_seconds + other.cpu_seconds,
        processor_joules=_both(one.processor_joules, other.processor_joules),
        accelerator_joules=_sum(one.accelerator_joules, other.accelerator_joules),
        unread=one.unread or other.unread,
    )


def minus(later: SpentFacts, earlier: SpentFacts) -> SpentFacts:
    """What lies between two readings of the same counters."""
    return SpentFacts(
        seconds=later.seconds - earlier.seconds,
        cpu_seconds=later.cpu_seconds - earlier.cpu_seconds,
        processor_joules=_both(later.processor_joules, earlier.processor_joules, -1),
        accelerator_joules=_both(later.accelerator_joules, earlier.accelerator_joules, -1),
        unread=later.unread,
    )


@dataclass(frozen=True)
class Amount:
    """Energy as far as counters told it, and the processor seconds that are still to be taken times watts a core."""

    joules: float = 0.0
    cpu_seconds: float = 0.0

    @classmethod
    def of(cls, spent: SpentFacts) -> Self:
        """What was spent; the processors' part by their counter, where it was read."""
        told, accelerator = spent.processor_joules, spent.accelerator_joules or 0.0
        return cls(accelerator, spent.cpu_seconds) if told is None else cls(accelerator + told)

    @classmethod
    def between(cls, lo: float, hi: float, watts: tuple[float, float]) -> Self:
        """The amount that is `lo` joules at the first of `watts` and `hi` at the second."""
        seconds = (hi - lo) / (watts[1] - watts[0]) if watts[1] > watts[0] else 0.0
        return cls(lo - watts[0] * seconds, seconds)

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.joules + other.joules, self.cpu_seconds + other.cpu_seconds)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.joules - other.joules, self.cpu_seconds - other.cpu_seconds)

    def at(self, watts: float) -> float:
        """Joules, at so many watts a busy core."""
        return self.joules + watts * self.cpu_seconds


def joules_of(repeats: Sequence[SpentFacts], watts: tuple[float, float], times: float = 1.0) -> JoulesFacts:
    """`times` the energy of one repeat: the median by counters, else an interval of all repeats at all the watts."""
    amounts = [Amount.of(one) for one in repeats]
    estimated = any(one.cpu_seconds > 0 for one in amounts)
    most = [times * one.at(watts[1]) for one in amounts]
    return JoulesFacts(
        value=None if estimated else float(np.median(most)),
        lo=min(times * one.at(watts[0]) for one in amounts),
        hi=max(most),
        estimated=estimated,
        n=len(repeats),
        cpu_seconds=times * float(np.median([one.cpu_seconds for one in repeats])),
        seconds=times * float(np.median([one.seconds for one in repeats])),
        method=_method(repeats, estimated, watts),
    )


def summed(parts: Sequence[JoulesFacts]) -> JoulesFacts:
    """All of several amounts together, each by its own method."""
    values = [one.value for one in parts if one.value is not None]
    return JoulesFacts(
        value=sum(values) if len(values) == len(parts) else None,
        lo=sum(one.lo for one in parts),
        hi=sum(one.hi for one in parts),
        estimated=any(one.estimated for one in parts),
        cpu_seconds=sum(one.cpu_seconds for one in parts),
        seconds=sum(one.seconds for one in parts),
        method="; ".join(dict.fromkeys(one.method for one in parts)),
    )


def break_even(
    distilling: Amount,
    teacher: Sequence[Amount],
    student: Sequence[Amount],
    *,
    watts: tuple[float, float],
    instead_of: str,
    by: str,
    confidence: float = 0.95,
) -> BreakEvenFacts:
    """E(distilling) / (E(one inference of the teacher) - E(one of the student)), over interleaved repeats in pairs.

    All is taken at the same watts, so these cancel where everything is estimated. The interval is that of the median
    saving (bootstrap over repeats), at the watts that make it widest.
    """
    draws = np.random.default_rng(0).integers(0, len(teacher), (_RESAMPLES, len(teacher)))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    values, least, most = list[float](), list[float](), list[float]()
    for one in watts:
        saved = np.array([(t - s).at(one) for t, s in zip(teacher, student, strict=True)])
        small, large = np.quantile(np.median(saved[draws], -1), tails)
        middle, whole = float(np.median(saved)), distilling.at(one)
        values.append(whole / middle if middle > 0 else float("inf"))
        least.append(whole / large if large > 0 else float("inf"))
        most.append(whole / small if small > 0 else float("inf"))
    lo, hi = min(least), max(most)
    same = np.isfinite(values).all() and abs(values[1] - values[0]) <= _SAME * values[0]
    return BreakEvenFacts(
        value=values[0] if same else None,
        lo=lo if np.isfinite(lo) else None,
        hi=hi if np.isfinite(hi) else None,
        instead_of=instead_of,
        student=by,
        n=len(teacher),
        confidence=confidence,
        method="energy of distilling over what one inference saves, the same method and watts for all; median of "
        "interleaved repeats, percentile bootstrap over repeats",
        note=_why_none(values, lo, same=bool(same)),
    )


def carbon_of(
    distilling: JoulesFacts, inference: dict[str, JoulesFacts], *, intensity: float, source: str, year: int, pue: float
) -> CarbonFacts:
    """The same energies as CO2 equivalent: kilowatt-hours times grams a kilowatt-hour times PUE."""

    def grams(energy: JoulesFacts) -> tuple[float, float]:
        return energy.lo / _JOULES_A_KWH * intensity * pue, energy.hi / _JOULES_A_KWH * intensity * pue

    return CarbonFacts(
        intensity=intensity, source=source, year=year, pue=pue, distilling=grams(distilling),
        inference={name: grams(one) for name, one in inference.items()},
    )  # fmt: skip


def _method(repeats: Sequence[SpentFacts], estimated: bool, watts: tuple[float, float]) -> str:
    parts = list[str]()
    if any(one.accelerator_joules is not None for one in repeats):
        parts.append("NVML's counter of the whole device")
    if any(one.processor_joules is not None for one in repeats):
        parts.append("RAPL's counters of the whole machine, whatever else ran")
    if estimated:
        parts.append(f"estimated: processor seconds x {watts[0]:g} to {watts[1]:g} W a busy core")
    return "; ".join(parts) or "no work"


def _why_none(values: list[float], lo: float, *, same: bool) -> str | None:
    if same:
        return None
    if np.isfinite(values).any():
        return "depends on the watts a core, since a counter told of a part only: an interval alone"
    if np.isfinite(lo):
        return "perhaps never: most repeats say that the student's inference takes no less than the teacher's"
    return "never: the student's inference takes no less than the teacher's"


def _both(one: float | None, other: float | None, sign: int = 1) -> float | None:
    return None if one is None or other is None else one + sign * other


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None and other is None else (one or 0.0) + (other or 0.0)


def _name(zone: Path) -> str:
    return (zone / "name").read_text(encoding="ascii").strip()


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))
