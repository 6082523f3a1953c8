"""Quantization-aware against post-training quantization: same recipe, teacher, steps and seeds, judged by the file.

    ATTAR_MIRROR=../shared/data python benchmarks/quantization.py recipes/digits.yaml --run runs/rounding \
        --out benchmarks/results/quantization-digits.json

Carries the recipe through twice, without and with `training.quantization`, without controls; finished runs are only
read. The exported file answers the test rows, a classifier's one at a time: of classifiers accuracy counts, of language
models the mean surprise, nats a token (lower is better). Intervals are those of the paired bootstrap over seeds and
rows. `--quick`: the path alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

import attar
from attar.data.load import load_data
from attar.evaluation.statistics import bootstrap_difference, bootstrap_metric, resample
from attar.evaluation.tokens import COLUMN, TEACHER, Reader, ask_about_rows
from attar.export.exporter import single_rows
from attar.export.runtimes import open_artifact
from attar.facts import Interval, RunFacts
from attar.recipe import Recipe
from attar.recipe.load import load_recipe
from attar.tasks import make_task
from attar.tasks.base import Task
from attar.tasks.causal_lm import CausalLM
from attar.teachers.gguf import read_gguf

WAYS = ("post-training", "quantization-aware")
PRECISIONS = {"int8": "onnx", "q8_0": "gguf", "q4_0": "gguf"}
"""Of classifiers the first, of language models the others."""
_ALWAYS = ("training.control=false", "report.latency=false")
_QUICK = ("training.max_steps=4", "data.max_train_rows=120", "data.max_held_out_rows=40", "teacher.fitting.epochs=1")


class Told(NamedTuple):
    """What a model said of the test rows: its figure is the sum of `counted` over that of `of`, float64 [N] each."""

    counted: np.ndarray
    of: np.ndarray

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """The figure where row n stands weights[b, n] times, [B]."""
        return (weights @ self.counted) / (weights @ self.of)

    def value(self) -> float:
        """The figure on all rows."""
        return float(self.counted.sum() / self.of.sum())


Read = dict[str, list[Told]]
"""By model, `checkpoint` and `file`: one a seed."""


def read_rows(recipe: Recipe, run: Path, seeds: list[int], precision: str) -> Read:
    """What the checkpoints and the exported files say of the test rows."""
    splits = load_data(recipe, None)
    task = make_task(recipe.task, splits.labels)
    found: Read = {"checkpoint": [], "file": []}
    for seed in seeds:
        folder = run if len(seeds) == 1 else run / "seeds" / str(seed)
        file = folder / "export" / f"{PRECISIONS[precision]}-{precision}"
        if isinstance(task, CausalLM):
            models = task.load_model(folder / "student"), read_gguf(file / "model.gguf")[0]
            processor = task.load_processor(folder / "student")
            told = [_surprise(model, task, splits.test, processor) for model in models]
        else:
            told = _hits(task, splits.test, folder, file)
        for name, one in zip(found, told, strict=True):
            found[name].append(one)
    return found


def _surprise(model: Any, task: CausalLM, rows: Dataset, processor: Any) -> Told:
    reader = Reader(model, task.encode(rows, processor), processor)
    table = ask_about_rows({}, reader, task, len(rows))[TEACHER]
    return Told(table[:, COLUMN.nll], table[:, COLUMN.tokens])


def _hits(task: Task, rows: Dataset, folder: Path, file: Path) -> list[Told]:
    encoded = task.encode(rows, processor := task.load_processor(folder / "student"))
    with np.load(folder / "checkpoints" / "answers.npz") as said:
        checkpoint = said["test/student"]
    exported = open_artifact("onnx", file, threads=1).logits(single_rows(task, encoded, processor))
    hits = [(logits.argmax(-1) == encoded.labels).astype(np.float64) for logits in (checkpoint, exported)]
    return [Told(hit, np.ones_like(hit)) for hit in hits]


def compare(read: dict[str, Read]) -> dict[str, Interval]:
    """The figure by way and model, what each file moves from its checkpoint, and what rounding in training moves."""
    flat = {f"{way}, {model}": told for way, models in read.items() for model, told in models.items()}
    drawn = resample(flat, len(next(iter(flat.values()))[0].of))
    found = {name: bootstrap_metric(one) for name, one in drawn.items()}
    for way in WAYS:
        found[f"{way}, file - checkpoint"] = bootstrap_difference(drawn[f"{way}, file"], drawn[f"{way}, checkpoint"])
    aware, post = (drawn[f"{way}, file"] for way in reversed(WAYS))
    found["quantization-aware - post-training, file"] = bootstrap_difference(aware, post)
    return found


def measure(
    path: Path, run: Path, seeds: int, overrides: list[str], start: float, precision: str = "int8"
) -> dict[str, Any]:
    """Both ways, with their conditions."""
    read: dict[str, Read] = {}
    facts: dict[str, RunFacts] = {}
    # A file that is far off is measured, too.
    export = f"export=[{{kind: {PRECISIONS[precision]}, precision: {precision}, min_agreement: 0}}]"
    for way in WAYS:
        aware = [f"training.quantization={{precision: {precision}, start: {start}}}"] if way == WAYS[1] else []
        recipe = load_recipe(path, [*_ALWAYS, export, *overrides, *aware])
        if aware and not (run / way).exists():
            shutil.copytree(run / WAYS[0] / "store", run / way / "store")  # the teacher and its signals are the same
        facts[way] = attar.distill(recipe, run / way, seeds=seeds, say=print)
        first = recipe.training.seed
        read[way] = read_rows(recipe, run / way, list(range(first, first + seeds)), precision)
    last = facts[WAYS[1]]
    is_language = last.task == "causal_lm"
    return {
        "recipe": last.name,
        "precision": precision,
        "start": start,
        "overrides": overrides,
        "steps": last.training["student"].steps,
        "figure": "mean surprise, nats a token" if is_language else "accuracy",
        "lower_is_better": is_language,
        "found": {name: one.model_dump() for name, one in compare(read).items()},
        "by_seed": {way: {m: [one.value() for one in told] for m, told in of.items()} for way, of in read.items()},
        "agreement": {
            way: [a.parity.agreement for a in one.artifacts if a.precision == precision] for way, one in facts.items()
        },
        "conditions": {**last.lineage.machine, **last.lineage.packages, "attar": last.lineage.code},
    }


def table(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [f"| | {found['figure']} | 95 % interval |", "|---|---|---|"]
    kind = ".4f" if found["lower_is_better"] else ".2%"
    for name, one in found["found"].items():
        lines.append(f"| {name} | {one['value']:{kind}} | {one['lo']:{kind}} to {one['hi']:{kind}} |")
    return "\n".join(lines)


def main() -> None:
    """Run twice, read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")
    parser.add_argument("--start", type=float, default=0.0, help="training.quantization.start")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="as attar distill --set")
    parser.add_argument("--run", type=Path, required=True, help="folder of both runs")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a few steps on a few rows")
    options = parser.parse_args()
    overrides = [*(_QUICK if options.quick else ()), *options.overrides]
    found = measure(options.recipe, options.run, options.seeds, overrides, options.start, options.precision)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
