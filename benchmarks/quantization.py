"""Quantization-aware against post-training quantization: the same recipe, teacher, steps and seeds, judged by the file.

    ATTAR_MIRROR=../shared/data python benchmarks/quantization.py recipes/digits.yaml --run runs/rounding \
        --out benchmarks/results/quantization-digits.json

Carries the recipe through twice, without and with `training.quantization`, without controls; finished runs are only
read. The exported file answers the test rows, one at a time; intervals are those of the paired bootstrap over seeds and
rows. `--quick`: the path alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import attar
from attar.data.load import load_data
from attar.evaluation.statistics import bootstrap_difference, bootstrap_metric, resample
from attar.export.exporter import single_rows
from attar.export.runtimes import open_artifact
from attar.facts import Interval, RunFacts
from attar.recipe import Recipe
from attar.recipe.load import load_recipe
from attar.tasks import make_task

WAYS = ("post-training", "quantization-aware")
PRECISION = "int8"
_ALWAYS = (
    "training.control=false",
    "report.latency=false",
    f"export=[{{kind: onnx, precision: {PRECISION}, min_agreement: 0}}]",  # one that is far off is measured, too
)
_QUICK = ("training.max_steps=4", "data.max_train_rows=120", "data.max_held_out_rows=40", "teacher.fitting.epochs=1")


def right_rows(recipe: Recipe, run: Path, seeds: list[int]) -> dict[str, list[np.ndarray]]:
    """By model, a seed each: which test rows the checkpoint and the exported file answer rightly, bool [N]."""
    splits = load_data(recipe, None)
    task = make_task(recipe.task, splits.labels)
    found: dict[str, list[np.ndarray]] = {"checkpoint": [], "file": []}
    for seed in seeds:
        folder = run if len(seeds) == 1 else run / "seeds" / str(seed)
        encoded = task.encode(splits.test, processor := task.load_processor(folder / "student"))
        runner = open_artifact("onnx", folder / "export" / f"onnx-{PRECISION}", threads=1)
        with np.load(folder / "checkpoints" / "answers.npz") as said:
            logits = {"checkpoint": said["test/student"], "file": runner.logits(single_rows(task, encoded, processor))}
        for name, told in logits.items():
            found[name].append(told.argmax(-1) == encoded.labels)
    return found


def compare(right: dict[str, dict[str, list[np.ndarray]]]) -> dict[str, Interval]:
    """Accuracy by way and model, what each file loses against its checkpoint, and what being aware gains."""
    flat = {f"{way}, {model}": rows for way, models in right.items() for model, rows in models.items()}
    statistics = {
        name: [lambda weights, hit=hit: weights @ hit / weights.sum(-1) for hit in hits] for name, hits in flat.items()
    }
    drawn = resample(statistics, len(next(iter(flat.values()))[0]))
    found = {name: bootstrap_metric(one) for name, one in drawn.items()}
    for way in WAYS:
        found[f"{way}, file - checkpoint"] = bootstrap_difference(drawn[f"{way}, file"], drawn[f"{way}, checkpoint"])
    aware, post = (drawn[f"{way}, file"] for way in reversed(WAYS))
    found["quantization-aware - post-training, file"] = bootstrap_difference(aware, post)
    return found


def measure(path: Path, run: Path, seeds: int, overrides: list[str], start: float) -> dict[str, Any]:
    """Both ways, with their conditions."""
    right: dict[str, dict[str, list[np.ndarray]]] = {}
    facts: dict[str, RunFacts] = {}
    for way in WAYS:
        aware = [f"training.quantization={{precision: {PRECISION}, start: {start}}}"] if way == WAYS[1] else []
        recipe = load_recipe(path, [*_ALWAYS, *overrides, *aware])
        if aware and not (run / way).exists():
            shutil.copytree(run / WAYS[0] / "store", run / way / "store")  # the teacher and its signals are the same
        facts[way] = attar.distill(recipe, run / way, seeds=seeds, say=print)
        first = recipe.training.seed
        right[way] = right_rows(recipe, run / way, list(range(first, first + seeds)))
    last = facts[WAYS[1]]
    return {
        "recipe": last.name,
        "precision": PRECISION,
        "start": start,
        "overrides": overrides,
        "steps": last.training["student"].steps,
        "accuracy": {name: one.model_dump() for name, one in compare(right).items()},
        "by_seed": {way: {m: [float(r.mean()) for r in rows] for m, rows in of.items()} for way, of in right.items()},
        "agreement": {
            way: [a.parity.agreement for a in one.artifacts if a.precision == PRECISION] for way, one in facts.items()
        },
        "conditions": {**last.lineage.machine, **last.lineage.packages, "attar": last.lineage.code},
    }


def table(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| | accuracy | 95 % interval |", "|---|---|---|"]
    for name, one in found["accuracy"].items():
        lines.append(f"| {name} | {one['value']:.2%} | {one['lo']:.2%} to {one['hi']:.2%} |")
    return "\n".join(lines)


def main() -> None:
    """Run twice, read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--start", type=float, default=0.0, help="training.quantization.start")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="as attar distill --set")
    parser.add_argument("--run", type=Path, required=True, help="folder of both runs")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a few steps on a few rows")
    options = parser.parse_args()
    overrides = [*(_QUICK if options.quick else ()), *options.overrides]
    found = measure(options.recipe, options.run, options.seeds, overrides, options.start)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
