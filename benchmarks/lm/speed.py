"""Training steps on a language model: attar's, with a live teacher, stored signals, or rollouts, against TRL's.

    ATTAR_MIRROR=../shared/data python benchmarks/lm/speed.py --json benchmarks/results/speed.json
    python benchmarks/lm/speed.py --json F.json --quick

Both train the same student on the same rows with the same objective, optimizer, clipping, rows a step, float32, and
without activation checkpointing (TRL turns it on where it is not told otherwise). Throughput is in learned tokens; of
the rows see `speed_ground.py`.

    live_over_trl, stored_over_trl                  whole rows, every token learned: attar's throughput over that of
                                                    TRL's GKDTrainer (lmbda 0, beta 0)
    live_over_trl_masked, stored_over_trl_masked    the same on chats of mixed length
    on_policy_over_trl                              the student writes: over TRL's DistillationTrainer (beta 1)
    memory_over_trl                                 a live step on whole rows: peak memory beyond weights, gradients and
                                                    optimizer state
    live_over_bare, stored_over_bare                seconds of a step on whole rows over the sum of its pieces, each
                                                    timed alone: the teacher's body, the student's forward and backward,
                                                    products with the heads, optimizer; stored without the teacher's

Each case lives in a process of its own; those that are compared take turns, pass by pass, a pass being all rows once
and a repeat one pass. Values are medians of the repeats' ratios, `lo` and `hi` their 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from speed_ground import QUICK, Size, prepare

from attar.bench.interleave import interleave, ratio

Seconds = dict[str, list[float]]


class Worker:
    """The process of a case; see `speed_worker.py`."""

    def __init__(self, case: str, rows: str, count: int, batch: int, place: Path, size: Size, threads: int) -> None:
        told = {"case": case, "rows": rows, "count": count, "batch": batch, "place": str(place), "size": asdict(size)}
        self.name, self._steps = case, count // batch
        self._process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("speed_worker.py")),
                json.dumps({**told, "threads": threads}),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )
        self._answer()

    def a_token(self) -> float:
        """Seconds a learned token, of one pass."""
        found = self.ask(f"time {self._steps}")
        return found["seconds"] / found["tokens"]

    def ask(self, question: str) -> dict[str, float]:
        """Put a question and wait for its answer."""
        assert self._process.stdin is not None
        print(question, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the worker ended with {self._process.wait()}; its message stands above.")
        return json.loads(line)


class Race:
    """Cases that take turns on the same `count` rows, `batch` a step."""

    def __init__(
        self, cases: list[str], rows: str, count: int, batch: int, size: Size, place: Path, threads: int
    ) -> None:
        self.workers = {case: Worker(case, rows, count, batch, place, size, threads) for case in cases}
        self.size = size

    def __enter__(self) -> Race:
        for worker in self.workers.values():
            for _ in range(self.size.warm):
                worker.a_token() if worker.name != "bare" else worker.ask("time")
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def run(self, bare: list[dict[str, float]]) -> Seconds:
        """Seconds a token of each case, repeat by repeat; of `bare`, whose pieces are noted, seconds of a step."""

        def pieces() -> float:
            bare.append(self.workers["bare"].ask("time"))
            return sum(bare[-1].values())

        jobs: dict[str, Callable[[], float]] = {
            name: pieces if name == "bare" else worker.a_token for name, worker in self.workers.items()
        }
        return interleave(jobs, self.size.repeats)


def entry(one: list[float], other: list[float]) -> dict[str, float]:
    """The ratio of two interleaved lists as the JSON has it."""
    return ratio(one, other).model_dump(include={"value", "lo", "hi", "n"})


def whole(size: Size, place: Path, threads: int) -> dict[str, Any]:
    """Every token learned: speed, memory, and what the pieces of a step take alone."""
    bare: list[dict[str, float]] = []
    cases = ["attar live", "attar stored", "trl live", "bare"]
    with Race(cases, "whole", size.whole, size.whole, size=size, place=place, threads=threads) as race:
        found = race.run(bare)
        asks = {name: race.workers[name] for name in ("attar live", "trl live")}
        peaks = interleave({name: lambda w=w: w.ask("memory")["bytes"] for name, w in asks.items()}, size.repeats)
    learned = size.whole * (size.tokens - 1)
    step = {name: [learned * second for second in found[name]] for name in cases[:3]}
    without = [sum(second for name, second in one.items() if "teacher" not in name) for one in bare]
    return {
        "live_over_trl": entry(found["trl live"], found["attar live"]),
        "stored_over_trl": entry(found["trl live"], found["attar stored"]),
        "memory_over_trl": entry(peaks["attar live"], peaks["trl live"]),
        "live_over_bare": entry(step["attar live"], found["bare"]),
        "stored_over_bare": entry(step["attar stored"], without),
        "whole": {
            "step_seconds": {name: statistics.median(seconds) for name, seconds in step.items()},
            "bare_seconds": {name: statistics.median(one[name] for one in bare) for name in bare[0]},
            "peak_bytes": {name: statistics.median(some) for name, some in peaks.items()},
        },
    }


def masked(size: Size, place: Path, threads: int) -> dict[str, Any]:
    """Chats, of which the answers are learned."""
    cases = ["attar live", "attar stored", "trl live"]
    with Race(cases, "masked", size.masked, size.batch, size=size, place=place, threads=threads) as race:
        found = race.run([])
    return {
        "live_over_trl_masked": entry(found["trl live"], found["attar live"]),
        "stored_over_trl_masked": entry(found["trl live"], found["attar stored"]),
        "masked": {"tokens_per_second": _rates(found)},
    }


def on_policy(size: Size, place: Path, threads: int) -> dict[str, Any]:
    """The student writes the answers of all prompts."""
    cases = ["attar on-policy", "trl on-policy"]
    with Race(cases, "masked", size.batch, size.batch, size=size, place=place, threads=threads) as race:
        found = race.run([])
    return {
        "on_policy_over_trl": entry(found["trl on-policy"], found["attar on-policy"]),
        "on_policy": {"tokens_per_second": _rates(found)},
    }


def _rates(found: Seconds) -> dict[str, float]:
    return {name: 1.0 / statistics.median(seconds) for name, seconds in found.items()}


RACES = {"whole": whole, "masked": masked, "on_policy": on_policy}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument("--quick", action="store_true", help="a tiny teacher and made-up text, to walk the path")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, help="passes of each case that count")
    parser.add_argument("--only", nargs="*", choices=list(RACES), default=list(RACES), help="races (default: all)")
    args = parser.parse_args()
    size = QUICK if args.quick else Size()
    if args.repeats is not None:
        size = Size(**{**asdict(size), "repeats": args.repeats})
    torch.set_num_threads(args.threads)
    load = os.getloadavg()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        about = prepare(Path(folder), size, quick=args.quick)
        for name in args.only:
            result |= RACES[name](size, Path(folder), args.threads)
    result["conditions"] = {
        **about,
        "size": asdict(size),
        "teacher": "tiny" if args.quick else "SmolLM2-135M-Instruct",
        "threads": args.threads,
        "dtype": "float32",
        "activation_checkpointing": False,
        "device": f"cpu, {platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load": [load, os.getloadavg()],
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "method": "median ratio of interleaved passes, 95 % percentile bootstrap over repeats; a process a case",
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, value in result.items():
        if isinstance(value, dict) and "lo" in value:
            print(f"{name:24} {value['value']:6.3f}  ({value['lo']:.3f} to {value['hi']:.3f}, n = {value['n']})")


if __name__ == "__main__":
    main()
