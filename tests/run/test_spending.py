"""What stages cost: kept over resumes, killed attempts and replaced results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from attar.account import energy_facts, spent_by_part
from attar.bench.energy import Meter
from attar.facts import SpentFacts, StageFacts
from attar.ranks import Ranks
from attar.recipe.energy import EnergySpec
from attar.spending import Attempt, Costs
from attar.stages import Stages


class Found(BaseModel):
    """What a stage finds."""

    number: int


def burn(seconds: float = 0.03) -> Found:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return Found(number=1)


def stages_in(folder: Path) -> Stages:
    return Stages(folder, lambda _: None)


def test_a_resumed_stage_keeps_what_it_cost(tmp_path: Path) -> None:
    first = stages_in(tmp_path)
    first.run("teacher", "key", [], Found, burn)
    again = stages_in(tmp_path)
    assert again.run("teacher", "key", [], Found, lambda: pytest.fail("done before")) == Found(number=1)
    (done,), (cached,) = first.done, again.done
    assert done.spent is not None
    assert done.spent.cpu_seconds >= 0.02
    assert done.spent.seconds == done.seconds >= 0.03
    assert (cached.cached, cached.spent, cached.earlier) == (True, done.spent, None)


def test_a_failed_attempt_and_a_replaced_result_count(tmp_path: Path) -> None:
    def fail() -> Found:
        burn()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        stages_in(tmp_path).run("0/student", "key", [], Found, fail)
    second = stages_in(tmp_path)
    second.run("0/student", "key", [], Found, burn)
    (done,) = second.done
    assert done.earlier is not None
    assert done.earlier.seconds >= 0.03
    other = stages_in(tmp_path)
    other.run("0/student", "another key", [], Found, burn)
    assert done.spent is not None
    assert other.done[0].earlier is not None
    assert other.done[0].earlier.seconds == pytest.approx(done.earlier.seconds + done.spent.seconds)
    same = stages_in(tmp_path)
    same.run("0/student", "another key", [], Found, burn)
    assert same.done[0].earlier == other.done[0].earlier


def test_attempts_of_a_stage_that_was_refused_are_found(tmp_path: Path) -> None:
    def refuse() -> Found:
        burn()
        raise ValueError("parity")

    stages = stages_in(tmp_path)
    stages.run("data", "key", [], Found, burn)
    for _ in range(2):
        with pytest.raises(ValueError, match="parity"):
            stages.run("0/onnx-int8", "key", [], Found, refuse)
    others = stages.costs.of_others(["data"])
    assert others is not None
    assert others.seconds >= 0.06
    assert stages.costs.of_others(["data", "0/onnx-int8"]) is None


def test_a_killed_attempt_is_known_to_its_last_beat(tmp_path: Path) -> None:
    code = (
        "import sys, time, attar.spending as s; from pathlib import Path; s.BEAT = 0.05\n"
        "with s.Costs(Path(sys.argv[1])).attempt('teacher'):\n"
        "    print('begun', flush=True)\n"
        "    while True: pass"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    worker.stdout.readline()
    file = tmp_path / "costs" / "teacher.json"
    end = time.monotonic() + 30
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    assert set(json.loads(file.read_text())) == {"running"}
    costs = Costs(tmp_path)
    killed = costs.before("teacher")
    assert killed is not None
    assert killed.seconds > 0
    with costs.attempt("teacher") as attempt:
        attempt.result = attempt.spent()
    assert set(json.loads(file.read_text())) == {"before"}
    assert costs.before("teacher") == killed


def test_a_damaged_file_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "costs").mkdir()
    (tmp_path / "costs" / "teacher.json").write_text("{")
    assert Costs(tmp_path).before("teacher") is None
    (tmp_path / "costs" / "teacher.json").write_text('{"before": {"seconds": "x"}}')
    assert Costs(tmp_path).before("teacher") is None


class Two(Ranks):
    """Two processes that have taken the same."""

    def gathered(self, value: Any) -> list[Any]:
        return [value, value.model_copy(update={"seconds": value.seconds + 1})]


class Still(Meter):
    """Has seen two seconds of work."""

    def spent(self) -> SpentFacts:
        return SpentFacts(seconds=2, cpu_seconds=3, processor_joules=10, accelerator_joules=5)


def test_processes_that_work_together_are_added_up() -> None:
    both = Attempt(Still()).spent(Two(2, 0))
    assert both == SpentFacts(seconds=3, cpu_seconds=6, processor_joules=20, accelerator_joules=10)


def spent(cpu: float) -> SpentFacts:
    return SpentFacts(seconds=cpu, cpu_seconds=cpu)


def stage(name: str, cpu: float, earlier: float | None = None) -> StageFacts:
    before = None if earlier is None else spent(earlier)
    return StageFacts(name=name, seconds=cpu, cached=False, key="0", spent=spent(cpu), earlier=before)


def test_parts_are_told_apart() -> None:
    took = {
        "data": 1, "signals": 20, "0/student": 50, "1/student": 60, "0/control": 30, "0/control_random": 31,
        "0/answers": 2, "0/onnx-int8": 5, "measure": 4,
    }  # fmt: skip
    stages = [stage("teacher", 60, 40), stage("teacher/student", 40), *(stage(name, cpu) for name, cpu in took.items())]
    stages.append(StageFacts(name="layers", seconds=9, cached=True, key="0"))
    parts = spent_by_part(stages, spent(7))
    assert {name: one.cpu_seconds for name, one in parts.items()} == {
        "preparing": 1, "teacher fitting": 100, "labelling": 20, "training": 110, "control": 61, "evaluation": 2,
        "exports": 5, "measuring": 4, "attempts that were not used": 47,
    }  # fmt: skip


def test_the_record_of_a_run_s_energy() -> None:
    parts = {"training": spent(90), "control": spent(10)}
    taken = {
        "teacher": [spent(4e-3), spent(5e-3)], "student": [spent(2e-3), spent(3e-3)], "control": [spent(2e-3)] * 2,
    }  # fmt: skip
    found = energy_facts(parts, taken, EnergySpec())
    assert list(found.distilling) == ["training", "control", "total"]
    assert found.total is not None
    assert (found.total.lo, found.total.hi, found.total.cpu_seconds) == (200, 1500, 100)
    assert (found.inference["teacher"].lo, found.inference["teacher"].hi) == (8, 75)
    assert found.ratio["student"].value == pytest.approx((2 / 4 + 3 / 5) / 2)
    assert found.ratio["student"].n == 2
    assert set(found.break_even) == {"student"}
    assert found.break_even["student"].value == pytest.approx(100 / 2e-3)
    assert found.carbon is None
    assert energy_facts(parts, taken, EnergySpec(), whole=False).break_even == {}
    unread = {"training": spent(90).model_copy(update={"unread": True})}
    assert energy_facts(unread, taken, EnergySpec()).break_even == {}
    bare = energy_facts({}, {}, EnergySpec())
    assert (bare.total, bare.ratio, bare.inference) == (None, {}, {})
    stated = EnergySpec.model_validate(
        {"watts_per_core": (5.0, 5.0), "carbon": {"intensity": 50.0, "source": "a grid", "year": 2024, "pue": 1.2}}
    )
    told = energy_facts(parts, taken, stated)
    assert told.watts_source == "stated in the recipe"
    assert told.carbon is not None
    assert told.carbon.distilling[0] == pytest.approx(500 / 3.6e6 * 50 * 1.2)
