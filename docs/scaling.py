"""The numbers of scaling.md: a teacher of 70B and a student of 3B on 64 GPUs, each with the formula that gave it.

    python docs/scaling.py    # writes them into the page

What was measured comes from benchmarks/results, what is assumed stands in `ASSUMED`; a formula is a Python expression
of both, printed as it is evaluated, so that a reader can change an assumption and see what becomes of the rest.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
PAGE, RESULTS = HERE / "scaling.md", HERE.parent / "benchmarks" / "results"
START, END = "<!-- made: python docs/scaling.py -->\n", "<!-- /made -->"

ASSUMED: dict[str, tuple[str, float, float]] = {
    "gpus": ("GPUs, 8 on a machine", 64, 64),
    "flops": ("bf16 arithmetic a second and GPU, dense, by its data sheet", 989e12, 989e12),
    "wire": ("bytes a second and GPU between machines", 50e9, 25e9),
    "label_use": ("share of `flops` that labelling reaches (prefill)", 0.60, 0.35),
    "train_use": ("share of `flops` that training reaches", 0.45, 0.30),
    "price": ("dollars a GPU-hour", 2, 4),
    "tokens": ("learned tokens in all, seen once", 10e9, 10e9),
    "length": ("tokens a sequence, packed", 4096, 4096),
    "batch": ("sequences a micro-batch and GPU", 4, 4),
    "held": ("values held a token and unit of width while one layer is differentiated (as the plan counts)", 16, 16),
    "teacher": ("parameters of the teacher", 70.6e9, 70.6e9),
    "layers": ("student: layers", 28, 28),
    "width": ("student: width", 3072, 3072),
    "inner": ("student: feed-forward width", 8192, 8192),
    "kv": ("student: width of keys, and of values", 1024, 1024),
    "vocabulary": ("tokens of the vocabulary, head tied to the embeddings", 128256, 128256),
}
"""By name: what it is, and its value at the good and at the bad end of the range."""


class Row(NamedTuple):
    """One line of a table: its name in formulas, what it is, its formula, and its unit."""

    name: str
    what: str
    formula: str
    unit: str


SIZES = (
    Row("layer", "parameters of a layer", "2 * width * (width + kv) + 3 * width * inner + 2 * width", ""),
    Row("head", "parameters of embeddings and head (V x D)", "vocabulary * width", ""),
    Row("params", "parameters of the student", "layers * layer + head + width", ""),
    Row("micro", "tokens a micro-batch and GPU", "batch * length", ""),
    Row("step_tokens", "tokens a step, `accumulate: 1`", "gpus * micro", ""),
    Row("steps", "steps", "tokens / step_tokens", ""),
)
MEMORY = (
    Row("state", "weights, gradients, Adam's two moments, sharded", "16 * params / gpus", "GB"),
    Row("root", "embeddings and head, gathered in float32 from forward to backward", "4 * head", "GB"),
    Row("head_gradient", "gradient of the head that the lazy loss makes (V x D, float32)", "4 * head", "GB"),
    Row("table_gradient", "gradient of the embeddings, added to it", "4 * head", "GB"),
    Row("gathered", "two layers gathered in bf16, one's gradient in float32", "(2 * 2 + 4) * layer", "GB"),
    Row("inputs", "inputs of all layers, kept by activation checkpointing", "4 * layers * micro * width", "GB"),
    Row("inside", "inside of the one layer that runs again", "4 * held * micro * width", "GB"),
    Row("states", "last states and their gradient", "2 * 4 * micro * width", "GB"),
    Row("tile", "logits: a block and a tile, and what objectives make of them (measured)", "measured_tile", "GB"),
    Row("in_all", "together", "state + root + head_gradient + table_gradient + gathered + inputs + inside + states + "
        "tile", "GB"),
    Row("dense", "instead of the tile, dense logits would take (measured ratio)", "dense_copies * 4 * micro * "
        "vocabulary", "GB"),
    Row("kept_all", "without activation checkpointing, instead of inputs", "layers * inside", "GB"),
    Row("ddp", "`parallel: ddp`: the state, not sharded", "16 * params", "GB"),
)  # fmt: skip
TRAFFIC = (
    Row("gather", "received a step and GPU: layers twice in bf16, the rest once in float32",
        "2 * 2 * layers * layer + 4 * head", "GB"),
    Row("scatter", "sent a step and GPU: gradients in float32", "4 * params", "GB"),
    Row("wire_time", "seconds on the wire, if nothing is hidden behind arithmetic", "(gather + scatter) / wire", "s"),
    Row("attention", "arithmetic of attention a token: forward, backward, once again", "4 * 4 * layers * width * "
        "length / 2", "GFLOP"),
    Row("arithmetic", "seconds of arithmetic a step", "(8 * params + attention) * micro / (flops * train_use)", "s"),
)  # fmt: skip
STORE = (
    Row("token_bytes", "bytes a token: measured at 49,152 tokens; 17.3 ids of log2(V / 49152) bits more at the bad end",
        "measured_bytes + more_bytes", "B"),
    Row("store", "the store", "tokens * token_bytes", "GB"),
    Row("dense_store", "dense logits in bf16, to compare", "2 * tokens * vocabulary", "TB"),
    Row("read", "read a step and process", "micro * token_bytes", "MB"),
    Row("decode", "seconds to decode that on one core (measured rate)", "micro / measured_rate", "s"),
    Row("checkpoint", "a checkpoint: weights and moments, all shards", "12 * params", "GB"),
)  # fmt: skip
TIME = (
    Row("label_hours", "labelling, hours on all GPUs", "2 * teacher * tokens / (gpus * flops * label_use) / 3600", "h"),
    Row("label_cost", "labelling, cost", "label_hours * gpus * price", "$"),
    Row("train_hours", "training one student, hours on all GPUs", "steps * max(arithmetic, wire_time) / 3600", "h"),
    Row("train_cost", "training one student, cost", "train_hours * gpus * price", "$"),
    Row("both", "student and control, with labelling, cost", "label_cost + 2 * train_cost", "$"),
)  # fmt: skip
TABLES = {
    "Sizes": SIZES,
    "Memory a GPU": MEMORY,
    "Traffic and arithmetic": TRAFFIC,
    "Disk": STORE,
    "Time and cost": TIME,
}
_SCALE = {"GB": 1e9, "TB": 1e12, "MB": 1e6, "GFLOP": 1e9}


def measured(results: Path = RESULTS) -> dict[str, tuple[str, float, float]]:
    """What benchmarks found, as `ASSUMED` has it."""
    loss = json.loads((results / "loss_memory.json").read_text(encoding="utf-8"))
    few = json.loads((results / "token_store.json").read_text(encoding="utf-8"))
    at = loss["conditions"]
    extra = {case["tokens"]: case["peak_extra_bytes"] for case in _cases(loss, "attar")}
    gradient = 4 * at["vocabulary"] * at["width"]
    tiles = [peak - gradient for peak in extra.values()]
    (naive,) = _cases(loss, "naive")
    copies = naive["peak_extra_bytes"] / (4 * naive["tokens"] * at["vocabulary"])
    (row,) = [row for row in few["rows"] if row["form"] == "threshold 0.02" and row["bits"] == 8]
    more_bits = math.log2(ASSUMED["vocabulary"][1] / at["vocabulary"])
    longest = f"{max(extra):,}"
    return {
        "measured_tile": (
            f"bytes beyond inputs and V x D gradient, 2,048 to {longest} tokens (`loss_memory.json`)",
            min(tiles), max(tiles),
        ),
        "dense_copies": ("dense logits held at once by the plain loss (`loss_memory.json`)", copies, copies),
        "measured_bytes": ("bytes a token, threshold 0.02 (`token_store.json`)", row["bytes"], row["bytes"]),
        "more_bytes": ("bytes of longer ids", 0.0, row["ids"] * more_bits / 8),
        "measured_rate": ("tokens decoded a second and core (`token_store.json`)", row["rate"], row["rate"]),
    }  # fmt: skip


def _cases(loss: dict[str, object], who: str) -> list[dict[str, float]]:
    cases: list[dict[str, float]] = [c for c in loss["cases"] if (c["impl"], c["objective"]) == (who, "forward_kl")]  # type: ignore[index,union-attr]
    return cases


def values(given: dict[str, tuple[str, float, float]]) -> dict[str, tuple[float, float]]:
    """Every quantity at the good and at the bad end; formulas see those above them."""
    found = {name: (good, bad) for name, (_, good, bad) in given.items()}
    for row in (row for rows in TABLES.values() for row in rows):
        ends = [eval(row.formula, {"max": max}, {name: pair[end] for name, pair in found.items()}) for end in (0, 1)]
        found[row.name] = (ends[0], ends[1])
    return found


def section(results: Path = RESULTS) -> str:
    """The tables, as Markdown."""
    given = {**ASSUMED, **measured(results)}
    found = values(given)
    lines = ["| assumed or measured | | value |", "|---|---|---|"]
    lines += [f"| `{name}` | {what} | {_range((good, bad))} |" for name, (what, good, bad) in given.items()]
    for title, rows in TABLES.items():
        lines += ["", f"**{title}**", "", "| | | formula | value |", "|---|---|---|---|"]
        lines += [
            f"| `{row.name}` | {row.what} | `{row.formula}` | {_range(found[row.name], row.unit)} |" for row in rows
        ]
    return "\n".join(lines)


def page(text: str, results: Path = RESULTS) -> str:
    """scaling.md with its numbers between the markers. Raises ValueError where it has none."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{PAGE.name} lacks {START.strip()} or {END}")
    return f"{before}{start}\n{section(results)}\n\n{end}{after}"


def _range(pair: tuple[float, float], unit: str = "") -> str:
    shown = [_number(value / _SCALE.get(unit, 1.0)) for value in pair]
    told = shown[0] if shown[0] == shown[1] else f"{shown[0]} to {shown[1]}"
    return f"{told} {unit}".rstrip()


def _number(value: float) -> str:
    """Three digits that count."""
    if value >= 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
