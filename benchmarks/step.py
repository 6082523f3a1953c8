"""What a training step costs: attar's Trainer against a bare PyTorch loop, and stored signals against training alone.

    python benchmarks/step.py --out benchmarks/step.json

- step_over_bare: an optimizer step of `attar.training` over a hand-written loop that does the same work: the same
  batches, collated when they are needed, the same module and losses (forward_kl and the cosine of a pooled hidden
  state, read from a store), fused AdamW with the same groups, clipping, schedule. attar also counts, watches for NaN,
  logs every tenth step to a file, and uses deterministic algorithms; the bare loop does not.
- stored_over_alone: a step of attar with these two objectives and stored signals over a step with hard labels alone. An
  epoch has as many steps of either, and nothing else.

The three take single steps in turn, in one process; neighbouring steps give a ratio, and the median of the ratios
counts.

Two students, BERT with 64 rows a step: 2 layers of 128 (the step is short, and overhead shows), and 4 layers of 256
(well above 50 ms). Texts are drawn at random, 3 to 28 words, as long as those of banking77 on average.
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
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Semaphore, Thread
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, TrainerCallback, get_scheduler

from attar.bench.interleave import interleave, ratio
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import ForwardKLSpec, HardLabelsSpec, HiddenSpec
from attar.recipe.task import TextClassificationSpec
from attar.recipe.training import TrainingSpec
from attar.signals import HiddenKey, Inside, Wanted
from attar.tasks import make_task
from attar.tasks.base import Encoded, Task
from attar.teachers.labelling import label
from attar.teachers.local import from_module
from attar.training.callbacks import JsonLog
from attar.training.checkpoints import repeatable
from attar.training.collate import Collator
from attar.training.distil import Distil
from attar.training.rows import Batches, TrainingRows
from attar.training.train import make_trainer

LABELS = tuple(f"label {i}" for i in range(77))
TEACHER = (2, 384)
STUDENTS = {"2 x 128": (2, 128), "4 x 256": (4, 256)}
DISTIL = (ForwardKLSpec(kind="forward_kl", temperature=2.0), HiddenSpec(kind="hidden"))
ALONE = (HardLabelsSpec(kind="hard_labels"),)
WARM_UP = 5
"""Steps that are not counted."""


@dataclass
class Ground:
    """Rows, and the signals of a teacher in a store."""

    task: Task
    tokenizer: BertTokenizerFast
    encoded: Encoded
    distil: TrainingRows
    alone: TrainingRows

    def student(self, shape: tuple[int, int]) -> nn.Module:
        """A fresh student of so many layers and such a width."""
        torch.manual_seed(0)
        return bert(shape, len(self.tokenizer))

    def terms(self, shape: tuple[int, int], specs: Any) -> Terms:
        """The objectives between that student and the teacher."""
        return Terms(
            specs,
            problem="single_label",
            student=Inside(dict.fromkeys(range(shape[0] + 1), shape[1])),
            teacher=Inside(dict.fromkeys(range(TEACHER[0] + 1), TEACHER[1])),
            seed=0,
        )


def bert(shape: tuple[int, int], vocabulary: int) -> nn.Module:
    """A BERT classifier without dropout, at random."""
    layers, width = shape
    config = BertConfig(
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=width // 32,
        num_labels=len(LABELS),
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


def prepare(place: Path, rows: int) -> Ground:
    """Draw texts, and let a teacher at random label them into a store."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(2400)]
    texts = [" ".join(rng.choice(words, int(rng.integers(3, 29)))) for _ in range(rows)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = BertTokenizerFast(vocab={token: i for i, token in enumerate([*special, *words])}, model_max_length=64)
    task = make_task(TextClassificationSpec(kind="text_classification"), LABELS)
    data = Dataset.from_dict({"text": texts, "label": rng.integers(0, len(LABELS), rows).tolist()})
    encoded, keys = task.encode(data, tokenizer), task.content_keys(data)
    teacher = from_module(bert(TEACHER, len(tokenizer)), tokenizer, task)
    wanted = Wanted(hidden=(HiddenKey(TEACHER[0], "mean"),))
    store = label(teacher, task, {"train": (encoded, keys)}, wanted, place, {}, batch_tokens=8192)
    alone = TrainingRows(encoded, tokenizer)
    return Ground(task, tokenizer, encoded, TrainingRows(encoded, tokenizer, store.reader(keys, wanted)), alone)


def bare_run(ground: Ground, shape: tuple[int, int], spec: TrainingSpec, turns: InTurn) -> None:
    """The hand-written loop."""
    steps = spec.max_steps or 0
    terms = ground.terms(shape, DISTIL)
    distil = Distil(ground.student(shape), terms).train()
    still = {"token_dropout": 0.0, "subword_dropout": 0.0, "mixup": 0.0}
    collator = Collator(ground.distil, ground.task, seed=0, in_place=False, **still)
    batches = Batches(ground.encoded.lengths, batch_size=spec.batch_size, accumulate=1, seed=0)
    named = dict(distil.named_parameters())
    plain = {name for name in named if name.endswith("bias") or "LayerNorm" in name}
    groups = [
        {"params": [p for name, p in named.items() if name not in plain], "weight_decay": spec.weight_decay},
        {"params": [p for name, p in named.items() if name in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 20, num_training_steps=steps)
    turns.wait()
    for epoch in range(-(-steps // len(batches))):
        batches.set_epoch(epoch)
        for at in islice(batches, steps - epoch * len(batches)):
            batch = collator(at)
            counts = dict.fromkeys(terms.names, len(at.rows))
            distil(**batch, counts=counts)[0].backward()
            nn.utils.clip_grad_norm_(distil.parameters(), spec.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            turns.on_step_end()


class InTurn(TrainerCallback):
    """A training in a thread of its own, that takes one step when it is told to; `run` calls `wait` before each."""

    def __init__(self, run: Callable[[InTurn], None]) -> None:
        self._go, self._done, self._mark, self._seconds = Semaphore(0), Semaphore(0), 0.0, 0.0
        self._thread = Thread(target=self._start, args=(run, torch.get_num_threads()), daemon=True)
        self._thread.start()

    def step(self) -> float:
        """Seconds of the next step, all between the last one's end and its own: batch, log, callbacks."""
        self._go.release()
        assert self._done.acquire(timeout=300), "the training has stopped"
        return self._seconds

    def finish(self) -> None:
        """Let the training end."""
        self._go.release()
        self._thread.join()

    def wait(self) -> None:
        """Wait for the turn."""
        self._go.acquire()
        self._mark = time.perf_counter()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the first turn."""
        self.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Give the turn back, and wait for the next."""
        self._seconds = time.perf_counter() - self._mark
        self._done.release()
        self.wait()

    def _start(self, run: Callable[[InTurn], None], threads: int) -> None:
        torch.set_num_threads(threads)
        run(self)


def attar_run(ground: Ground, shape: tuple[int, int], specs: Any, spec: TrainingSpec, turns: InTurn) -> None:
    """A training of attar, with its log and a checkpoint at the end."""
    rows = ground.alone if specs is ALONE else ground.distil
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "checkpoints"
        trainer = make_trainer(ground.student(shape), ground.terms(shape, specs), ground.task, rows, spec, out, key="")
        trainer.add_callback(JsonLog(Path(place) / "log.jsonl", "student", []))
        trainer.add_callback(turns)
        trainer.resume(None)


def compare(ground: Ground, shape: tuple[int, int], spec: TrainingSpec, pairs: int) -> dict[str, Any]:
    """Both ratios for one student."""
    steps = pairs + WARM_UP
    spec = spec.model_copy(update={"max_steps": steps})
    with repeatable():
        stored = InTurn(partial(attar_run, ground, shape, DISTIL, spec))
        alone = InTurn(partial(attar_run, ground, shape, ALONE, spec))
        bare = InTurn(partial(bare_run, ground, shape, spec))

        def bare_step() -> float:
            torch.use_deterministic_algorithms(False)
            seconds = bare.step()
            torch.use_deterministic_algorithms(True, warn_only=True)
            return seconds

        found = interleave({"bare": bare_step, "stored": stored.step, "alone": alone.step}, steps)
        for one in (stored, alone, bare):
            one.finish()
    times = {name: seconds[WARM_UP:] for name, seconds in found.items()}
    return {
        "step_over_bare": ratio(times["stored"], times["bare"]).model_dump(),
        "stored_over_alone": ratio(times["stored"], times["alone"]).model_dump(),
        "step_ms": {name: 1000 * statistics.median(seconds) for name, seconds in times.items()},
    }


def main() -> None:
    """Measure, print a line a student, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--pairs", type=int, default=100, help="steps of each that are compared")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--students", nargs="*", choices=list(STUDENTS), default=list(STUDENTS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    spec = TrainingSpec(
        batch_size=64, device="cpu", evaluations=1, checkpoints=0, extra={"logging_steps": 10}, control=False
    )
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        ground = prepare(Path(place), options.rows)
        for name in options.students:
            load = os.getloadavg()[0]
            found[name] = {
                **compare(ground, STUDENTS[name], spec, options.pairs),
                "load": load,
            }
            print(row(name, found[name]), file=sys.stderr)
    report = {
        "conditions": {
            "device": "cpu", "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
            "threads": options.threads, "dtype": "float32", "rows": options.rows, "batch_size": spec.batch_size,
            "mean_tokens": float(ground.encoded.lengths.mean()), "teacher_width": TEACHER[1],
            "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version(),
            "method": "wall seconds, single steps in turn in one process, median of the ratios of neighbours",
        },
        "students": found,
    }  # fmt: skip
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def row(name: str, case: dict[str, Any]) -> str:
    """A line for people."""
    step, stored = case["step_over_bare"], case["stored_over_alone"]
    return (
        f"{name}: step {case['step_ms']['stored']:.1f} ms, bare {case['step_ms']['bare']:.1f} ms, "
        f"ratio {step['value']:.3f} ({step['lo']:.3f}-{step['hi']:.3f}); stored over alone {stored['value']:.3f} "
        f"({stored['lo']:.3f}-{stored['hi']:.3f}); load {case['load']:.1f}"
    )


if __name__ == "__main__":
    main()
