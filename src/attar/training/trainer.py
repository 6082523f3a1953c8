"""A `transformers.Trainer` that holds no maths: batches, counting, logging, checkpoints and the stop on NaN.

The step's denominators are the kept rows of each term over all its micro-batches and processes, counted in
`get_batch_samples` before the forward pass; the loss is scaled by us, so Transformers' own scaling is switched off.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from attar.errors import TrainingError
from attar.storage import atomic_write, guard
from attar.training.distil import Distil
from attar.training.rows import Batch, Collator, LengthGroups, RowNumbers, TrainingRows

MARKER = "complete.json"
BEST = "best.safetensors"
Evaluate = Callable[[nn.Module], float]


class DistilTrainer(Trainer):
    """Trains a `Distil`. `key` marks checkpoints, so that only those of the same training are resumed."""

    loss_is_scaled_for_ga = True

    def __init__(
        self, model: Distil, args: TrainingArguments, rows: TrainingRows, collator: Collator, sampler: LengthGroups,
        *, key: str, evaluate_student: Evaluate | None, keep_best: bool, callbacks: list[TrainerCallback],
    ) -> None:  # fmt: skip
        numbers = RowNumbers(len(rows))
        super().__init__(
            model=model, args=args, train_dataset=numbers, eval_dataset=numbers,
            data_collator=cast("Any", collator), callbacks=callbacks,
        )  # fmt: skip
        self.remove_callback(PrinterCallback)
        self._sampler, self._key = sampler, key
        self._evaluate_student, self._keep_best = evaluate_student, keep_best
        self.best: tuple[int, float] = (0, -math.inf)
        self._term_sums: dict[str, Tensor] = {}
        self._distil = model
        model.place_teacher(args.device)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of row numbers, grouped by length; the collator does the rest in this process."""
        loader: DataLoader[Any] = DataLoader(
            cast("RowNumbers", self.train_dataset),
            batch_sampler=self._sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return cast("DataLoader[Any]", self.accelerator.prepare(loader))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """The micro-batches of one step, each with the whole step's counts by term."""
        batches: list[Batch] = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(batch)
        counts: dict[str, float] = dict.fromkeys(self._distil.terms.names, 0.0)
        for batch in batches:
            mask = batch["student"].get("attention_mask")
            kept = self._distil.terms.kept(batch["labels"], len(batch["labels"]), mask)
            for name, value in kept.items():
                counts[name] += value
        if dist.is_initialized():
            summed = torch.tensor([counts[name] for name in sorted(counts)], dtype=torch.float64, device=device)
            dist.all_reduce(summed)
            counts = dict(zip(sorted(counts), summed.tolist(), strict=True))
        for batch in batches:
            batch["counts"] = counts
        return batches, None

    def compute_loss(self, model: nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> Tensor:
        """The module's own loss; DDP averages gradients over processes, so the sum needs their number as a factor."""
        try:
            total, terms = model(**inputs)
        except TrainingError as error:
            raise self._stop(str(error)) from error
        for name, value in terms.items():
            self._term_sums[name] = self._term_sums[name] + value if name in self._term_sums else value
        value = total.detach()
        if value.device.type == "cpu" and not math.isfinite(float(value)):
            raise self._stop(f"the loss is {float(value)}", terms)
        return total * dist.get_world_size() if dist.is_initialized() else total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each term's mean over the logged steps, and stop where the loss is no number."""
        if "loss" in logs:
            steps = max(1, self.state.global_step - getattr(self, "_last_terms_step", self.state.global_step - 1))
            self._last_terms_step = self.state.global_step
            for name, value in self._term_sums.items():
                logs[f"term_{name}"] = float(value) / steps
            self._term_sums.clear()
            if not math.isfinite(logs["loss"]):
                raise self._stop(f"the loss is {logs['loss']}")
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Quality on validation by the caller's function; the best weights are put aside where they are to be kept."""
        if self._evaluate_student is None:
            return {}
        value = self._evaluate_student(self._distil.student)
        self._distil.train()
        self.log({"validation": value})
        if self._keep_best and value > self.best[1]:
            self.best = (self.state.global_step, value)
            self._save_best()
        return {"eval_quality": value}

    def _save_best(self) -> None:
        from safetensors.torch import save_model

        folder = Path(cast("str", self.args.output_dir))
        with guard(folder):
            partial = folder / f".{BEST}"
            save_model(self._distil.student, str(partial))
            partial.replace(folder / BEST)
        atomic_write(folder / "best.json", json.dumps({"key": self._key, "best": self.best}))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint and, last of all, the mark that it is whole. Weights that are no numbers are not written."""
        if any(not bool(torch.isfinite(p).all()) for p in self._distil.parameters()):
            raise self._stop("a weight is no finite number")
        folder = Path(cast("str", self.args.output_dir))
        with guard(folder):
            super()._save_checkpoint(model, trial)
            place = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            atomic_write(place / MARKER, json.dumps({"key": self._key, "best": self.best}))

    def _stop(self, cause: str, terms: dict[str, Tensor] | None = None) -> TrainingError:
        told = "" if not terms else " Terms: " + ", ".join(f"{n} {float(v):.4g}" for n, v in terms.items()) + "."
        good = newest(Path(cast("str", self.args.output_dir)), self._key)
        kept = f"The last good checkpoint is kept: {good}." if good else "No checkpoint was written before."
        rates = self.lr_scheduler.get_last_lr() if self.lr_scheduler is not None else [self.args.learning_rate]
        return TrainingError(
            f"training stopped in step {self.state.global_step + 1}: {cause}.{told} Learning rate {rates[0]:.3g}. {kept} "
            "Lower training.learning_rate, raise training.warmup or set training.clip, and check the data for NaN."
        )


def newest(folder: Path, key: str) -> Path | None:
    """The newest whole checkpoint of the same training; others, and half-written ones, are passed over."""
    found: list[tuple[int, Path]] = []
    for marker in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{MARKER}"):
        try:
            if json.loads(marker.read_text(encoding="utf-8"))["key"] == key:
                found.append((int(marker.parent.name.rsplit("-", 1)[1]), marker.parent))
        except (ValueError, KeyError):
            continue
    return max(found)[1] if found else None


def clear_strays(folder: Path, key: str) -> None:
    """Remove half-written checkpoints and those of another training, so that nothing of them is mixed in."""
    for place in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            same = json.loads((place / MARKER).read_text(encoding="utf-8"))["key"] == key
        except (OSError, ValueError, KeyError):
            same = False
        if not same:
            shutil.rmtree(place, ignore_errors=True)
