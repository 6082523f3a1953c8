"""Energy: counters that turn round, estimates that are intervals, and the laws of the break-even."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.bench.energy import Amount, Meter, Nvml, Rapl, break_even, carbon_of, joules_of, minus, plus, summed
from attar.facts import BreakEvenFacts, SpentFacts
from bench.counters import FakeNvml, move, powercap

WATTS = (2.0, 15.0)
ZONES = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0/intel-rapl:0:0": "core",
    "intel-rapl:0/intel-rapl:0:1": "dram",
    "intel-rapl:1": "package-1",
    "intel-rapl:2": "psys",
}
amounts = st.floats(1e-6, 1e6)


def test_rapl_counts_packages_and_memory_once(tmp_path: Path) -> None:
    root = powercap(tmp_path, ZONES)
    rapl = Rapl.find(root)
    assert rapl is not None
    for place, count in zip(ZONES, (300_000, 200_000, 50_000, 100_000, 900_000), strict=True):
        move(root / place, count)
    assert rapl.read() == pytest.approx(
        0.45
    )  # not the cores, which are in the package, nor the platform, which holds all
    assert rapl.read() == pytest.approx(0.45)


def test_a_counter_that_turns_round_goes_on(tmp_path: Path) -> None:
    root = powercap(tmp_path, {"intel-rapl:0": "package-0"}, full=999_999)
    zone = root / "intel-rapl:0"
    move(zone, 900_000)
    rapl = Rapl.find(root)
    assert rapl is not None
    for count in (950_000, 30_000, 10_000):
        move(zone, count)
        rapl.read()
    assert rapl.read() == pytest.approx(0.05 + 0.08 + 0.98)


def test_without_counters_there_is_no_rapl(tmp_path: Path) -> None:
    assert Rapl.find(tmp_path) is None
    root = powercap(tmp_path, {"intel-rapl:0": "package-0"})
    (root / "intel-rapl:0" / "energy_uj").unlink()  # as where only root may read it
    assert Rapl.find(root) is None


def test_nvml_is_read_by_the_device_s_name() -> None:
    library = FakeNvml("GPU-7", 5_000)
    device = Nvml.find("GPU-7", library)
    assert device is not None
    library.millijoules = 7_500
    assert device.read() == 7.5
    assert Nvml.find("GPU-8", library) is None
    for step in ("init", "handle", "energy"):
        assert Nvml.find("GPU-7", FakeNvml("GPU-7", **{step: 3})) is None


def test_a_meter_reads_what_there_is(tmp_path: Path) -> None:
    root = powercap(tmp_path, {"intel-rapl:0": "package-0"})
    library = FakeNvml(millijoules=1_000)
    meter = Meter(Rapl.find(root), Nvml.find("GPU-1", library), used=True)
    move(root / "intel-rapl:0", 250_000)
    library.millijoules = 4_000
    sum(range(10**5))
    spent = meter.spent()
    assert (spent.processor_joules, spent.accelerator_joules, spent.unread) == (pytest.approx(0.25), 3.0, False)
    assert spent.seconds > 0
    assert spent.cpu_seconds >= 0
    library.codes["energy"] = 999  # the device is gone: no work ends for that
    assert meter.spent().unread
    bare = Meter(used=True).spent()
    assert (bare.processor_joules, bare.accelerator_joules, bare.unread) == (None, None, True)
    assert Meter(Rapl.find(root), elsewhere=True).spent().processor_joules == 0.0


def test_what_one_counter_missed_is_not_known_by_it() -> None:
    told = SpentFacts(seconds=1, cpu_seconds=2, processor_joules=30, accelerator_joules=5)
    bare = SpentFacts(seconds=4, cpu_seconds=8)
    both = plus(told, bare)
    assert both == SpentFacts(seconds=5, cpu_seconds=10, processor_joules=None, accelerator_joules=5)
    assert plus(told, told).processor_joules == 60
    assert minus(plus(told, told), told) == told


def test_an_estimate_is_an_interval_and_says_so() -> None:
    repeats = [SpentFacts(seconds=0.1, cpu_seconds=c) for c in (0.1, 0.3, 0.2)]
    found = joules_of(repeats, WATTS, 1000)
    assert (found.value, found.lo, found.hi) == (None, pytest.approx(200), pytest.approx(4500))
    assert (found.estimated, found.n, found.cpu_seconds) == (True, 3, pytest.approx(200))
    assert "estimated: processor seconds x 2 to 15 W a busy core" in found.method


def test_counters_give_a_value_and_the_repeats_its_spread() -> None:
    repeats = [SpentFacts(seconds=1, cpu_seconds=1, processor_joules=j) for j in (3.0, 5.0, 4.0)]
    found = joules_of(repeats, WATTS)
    assert (found.value, found.lo, found.hi, found.estimated) == (4, 3, 5, False)
    assert "RAPL" in found.method
    assert "estimated" not in found.method
    mixed = joules_of([SpentFacts(seconds=1, cpu_seconds=10, accelerator_joules=100)], WATTS)
    assert (mixed.value, mixed.lo, mixed.hi, mixed.estimated) == (None, 120, 250, True)
    both = summed([found, mixed])
    assert (both.value, both.lo, both.hi, both.estimated, both.cpu_seconds) == (None, 123, 255, True, 11)
    assert summed([found, found]).value == 8


def test_carbon_by_hand() -> None:
    one = joules_of([SpentFacts(seconds=1, cpu_seconds=1, processor_joules=7.2e6)], WATTS)
    found = carbon_of(one, {"student": one}, intensity=50, source="a grid", year=2024, pue=1.5)
    assert found.distilling == found.inference["student"] == (150, 150)  # 2 kWh x 50 g x 1.5


def paid(
    distilling: Amount, teacher: list[float], student: list[float], watts: tuple[float, float] = WATTS
) -> BreakEvenFacts:
    """All by processor seconds."""
    ours, theirs = ([Amount(0, seconds) for seconds in side] for side in (student, teacher))
    return break_even(distilling, theirs, ours, watts=watts, instead_of="teacher", by="student")


def test_the_break_even_by_hand() -> None:
    found = paid(Amount(0, 100), [3.0] * 5, [1.0] * 5)
    assert (found.value, found.lo, found.hi) == (50, 50, 50)
    assert (found.n, found.note) == (5, None)


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=12), amounts, st.floats(1.01, 100))
def test_the_interval_is_in_order_and_more_distilling_is_paid_later(
    pairs: list[tuple[float, float]], distilling: float, more: float
) -> None:
    teacher, student = ([pair[side] for pair in pairs] for side in (0, 1))
    found, later = (paid(Amount(0, seconds), teacher, student) for seconds in (distilling, distilling * more))
    saved = np.median(np.subtract(teacher, student))
    if saved > 0:
        assert found.value == pytest.approx(distilling / saved)
        assert found.lo is not None
        assert found.lo <= found.value * (1 + 1e-9)
        assert found.hi is None or found.value <= found.hi * (1 + 1e-9)
        assert later.value == pytest.approx(more * found.value)
        assert later.lo == pytest.approx(more * found.lo)
    else:
        assert found.value is None
        assert found.hi is None
        assert found.note is not None
        assert "never" in found.note


@given(st.lists(amounts, min_size=1, max_size=8), st.floats(0.01, 0.99), amounts)
def test_a_thriftier_student_pays_sooner(teacher: list[float], share: float, distilling: float) -> None:
    wasteful, thrifty = (paid(Amount(0, distilling), teacher, [t * s for t in teacher]) for s in (share, share / 2))
    assert wasteful.value is not None
    assert thrifty.value is not None
    assert thrifty.value < wasteful.value
    assert wasteful.hi is not None


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=6), amounts, st.floats(0.1, 5), st.floats(5, 50))
def test_watts_cancel_where_all_is_estimated(
    pairs: list[tuple[float, float]], distilling: float, low: float, high: float
) -> None:
    teacher, student = [a + b for a, b in pairs], [b for _, b in pairs]
    one, other = (paid(Amount(0, distilling), teacher, student, watts) for watts in (WATTS, (low, high)))
    assert one.value == pytest.approx(other.value)
    assert one.lo == pytest.approx(other.lo)


def test_where_a_counter_told_of_a_part_the_watts_widen_the_interval() -> None:
    found = paid(Amount(1000, 10), [2.0] * 3, [1.0] * 3)
    assert (found.value, found.lo, found.hi) == (None, pytest.approx((1000 + 150) / 15), pytest.approx(1020 / 2))
    assert found.note is not None
    assert found.note.startswith("depends on the watts")
    joules = [Amount(4.0), Amount(5.0)]
    counted = break_even(Amount(90), joules, [Amount(1.0), Amount(2.0)], watts=WATTS, instead_of="t", by="s")
    assert (counted.value, counted.lo, counted.hi) == (30, 30, 30)


def test_a_student_that_costs_no_less_never_pays() -> None:
    found = paid(Amount(0, 10), [1.0, 1.1], [1.0, 1.2])
    assert (found.value, found.lo, found.hi) == (None, None, None)
    assert found.note == "never: the student's inference takes no less than the teacher's"
    unsure = paid(Amount(0, 10), [1.0, 1.0, 1.5], [1.1, 1.1, 1.1])
    assert (unsure.value, unsure.hi) == (None, None)
    assert unsure.lo is not None
    assert unsure.note is not None
    assert unsure.note.startswith("perhaps never")
