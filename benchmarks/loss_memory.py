"""Time and peak memory of losses over a large vocabulary: attar's lazy logits against the textbook, Liger and TRL.

    python benchmarks/loss_memory.py --json benchmarks/results/loss_memory.json
    python benchmarks/loss_memory.py --json F.json --tokens 2048 --repeats 1

Each case lives in a process of its own (see `loss_worker.py`); the processes take turns, so that what drifts on the
machine drifts for all alike. First each is asked for its peak memory, then for its seconds, `--repeats` times. Of
larger batches than the smallest only attar's memory is of interest, and one run is enough. The JSON holds `cases` and
the conditions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from attar.bench.interleave import interleave, ratio

TOKENS = (2048, 8192, 65536)
SORTING = ("adaptive_kl", "uld")
"""They sort the vocabulary, so they are told apart."""
PLAIN = (
    "reverse_kl",
    "jsd",
    "skew_kl",
    "skew_reverse_kl",
    "todi",
    "alpha_beta",
    "total_variation",
    "logit_mse",
    "taid",
    "dkd",
    "ofa",
    "sampled_token",
    "hard_labels",
)
BOTH_BATCHES = ("contrastive_skew",)
SPARSE = ("sparse_kl", "sampled_kl")
PAIRS = ("forward_kl+hard_labels", "forward_kl+reverse_kl")
LIGER_ROWS = (64, 128, 1024)
"""Its chunk: 1,024 rows by default; smaller ones hold less."""


@dataclass(frozen=True)
class Case:
    """One process."""

    impl: str
    objective: str
    tokens: int
    chunk_rows: int | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.impl}{f' ({self.chunk_rows} rows)' if self.chunk_rows else ''} {self.objective} {self.tokens}"


class Worker:
    """The process of a case."""

    def __init__(self, case: Case, settings: dict[str, int]) -> None:
        told = json.dumps({**vars(case), **settings})
        script = Path(__file__).with_name("loss_worker.py")
        threads = str(settings["threads"])
        self.name = case.name
        self._process = subprocess.Popen(
            [sys.executable, str(script), told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        self._answer()

    def ask(self, question: str) -> float:
        """Put a question and wait for its answer."""
        assert self._process.stdin is not None
        print(question, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()

    def _answer(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the worker ended with {self._process.wait()}; its message stands above.")
        return json.loads(line)


def cases_of(tokens: int, *, all_of_them: bool) -> list[Case]:
    """All implementations and objectives, or only what shows whether memory stays flat."""
    if not all_of_them:
        return [Case("attar", "forward_kl", tokens)]
    rivals = [Case("liger", "forward_kl", tokens, rows) for rows in LIGER_ROWS]
    own = ("forward_kl", *PLAIN, *SORTING, *BOTH_BATCHES, *SPARSE, *PAIRS)
    return [
        Case("gemm", "-", tokens),
        Case("naive", "forward_kl", tokens),
        *rivals,
        Case("trl", "forward_kl", tokens),
        *(Case("attar", objective, tokens) for objective in own),
    ]


def measure(cases: list[Case], settings: dict[str, int], repeats: int) -> list[dict[str, object]]:
    """Memory once, then seconds in turn; one entry a case."""
    workers = {case: Worker(case, settings) for case in cases}
    memory = {case: int(worker.ask("memory")) for case, worker in workers.items()}
    asks: dict[str, Callable[[], float]] = {c.name: partial(w.ask, "time") for c, w in workers.items()}
    seconds = interleave(asks, repeats)
    for worker in workers.values():
        worker.close()
    return [
        {
            **vars(case),
            "seconds": statistics.median(seconds[case.name]),
            "all_seconds": seconds[case.name],
            "peak_extra_bytes": memory[case],
            "n": repeats,
        }
        for case in cases
    ]


def ratios(entries: list[dict[str, object]], tokens: int) -> dict[str, object]:
    """Time over attar's forward_kl of the same turn, with its interval, and memory, by case with `tokens` rows."""
    rows = [entry for entry in entries if entry["tokens"] == tokens]
    base = next((e for e in rows if (e["impl"], e["objective"]) == ("attar", "forward_kl")), None)
    if base is None:
        return {}
    found: dict[str, object] = {}
    for entry in rows:
        name = Case(*(entry[key] for key in ("impl", "objective", "tokens", "chunk_rows"))).name  # type: ignore[arg-type]
        interval = ratio(entry["all_seconds"], base["all_seconds"])  # type: ignore[arg-type]
        memory = entry["peak_extra_bytes"] / base["peak_extra_bytes"]  # type: ignore[operator]
        found[name] = {"time": [interval.value, interval.lo, interval.hi], "memory": memory}
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument("--tokens", type=int, nargs="*", default=list(TOKENS), help="rows of the batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--only", nargs="*", help="objectives of attar to time, and impls (default: all)")
    args = parser.parse_args()
    settings = {"threads": args.threads, "vocabulary": args.vocabulary, "width": args.width}
    entries: list[dict[str, object]] = []
    load = os.getloadavg()
    for tokens in args.tokens:
        timed = tokens == min(args.tokens)
        cases = cases_of(tokens, all_of_them=timed)
        cases = [c for c in cases if not args.only or c.impl in args.only or c.objective in args.only]
        entries += measure(cases, settings, args.repeats if timed else 1)
        if timed:
            load = os.getloadavg()  # larger batches are only asked for their memory
    conditions = {
        **settings,
        "dtype": "float32",
        "device": f"cpu, {platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load": load,
        "versions": {name: version(name) for name in ("torch", "liger-kernel", "trl")},
    }
    result = {"cases": entries, "over_attar_forward_kl": ratios(entries, min(args.tokens)), "conditions": conditions}
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for entry in entries:
        extra = float(str(entry["peak_extra_bytes"])) / 1e6
        print(
            f"{entry['impl']:6} {entry['chunk_rows'] or '':>5} {entry['objective']:24} {entry['tokens']:6} rows",
            end="  ",
        )
        print(f"{float(str(entry['seconds'])):7.2f} s  {extra:8.0f} MB")


if __name__ == "__main__":
    main()
