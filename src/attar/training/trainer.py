"""A `transformers.Trainer` that holds no maths: it counts, steps, logs, evaluates, saves, and stops on NaN.

The denominators of a step are the kept rows of each term over all its micro-batches and all processes. They are
counted in `get_batch_samples`, before the first forward pass of the step, and handed to the module, which divides by
them; so Transformers' own scaling by accumulation and items is off, and DDP's mean over processes is undone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from attar.errors import TrainingError
from attar.precision import rounded_products
from attar.training.callbacks import AfterStep
from attar.training.checkpoints import SCHEDULE, STATE, Checkpoints, Mark, learned, load
from attar.training.clock import Clock
from attar.training.collate import Collator
from attar.training.distil import Distil
from attar.training.rollouts import Deferred, Rollouts, told
from attar.training.rows import Batch, Batches, Places
from attar.training.sharding import load_optimizer, load_weights, own_part, save_state, shard, whole_state

_ROWS = "rows of the step"


class Evaluate(Protocol):
    """Quality of a model on validation; higher is better, NaN where it is not defined."""

    def __call__(self, model: nn.Module, /) -> float:
        """Called with the student, in eval mode, on the training device."""
        ...


class DistilTrainer(Trainer):
    """Trains a `Distil`; see `attar.training.train.train`, which sets it up.

    Raises TrainingError where loss, gradient or weights stop being finite. On a CPU that is seen in the step itself,
    before weights are changed; elsewhere a flag on the device is read at logged steps, so that no step waits for it.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        distil: Distil,
        args: TrainingArguments,
        batches: Batches,
        collator: Collator,
        *,
        checkpoints: Checkpoints,
        evaluate: Evaluate | None,
        keep_best: bool,
        phase: str,
        callbacks: list[TrainerCallback],
        whole: Distil | None,
        rollouts: Rollouts | None = None,
    ) -> None:
        """`whole`: of a training that shards its weights, the same modules, which it puts whole weights into."""
        if whole is not None:
            distil.is_distributed_loading_by_transformers = True
            distil.to(args.device)
        places = Places(len(batches.lengths))
        collate = collator if rollouts is None else Deferred(collator, rollouts.turns)
        super().__init__(
            model=distil, args=args, train_dataset=places, data_collator=cast("Any", collate), callbacks=callbacks
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(AfterStep(self._advance))
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise TrainingError(
                "accelerate asks for FSDP or DeepSpeed; attar trains on one device, or under torchrun as "
                "training.parallel says."
            )
        self.distil, self.batches, self.checkpoints, self.phase = distil, batches, checkpoints, phase
        self.clock, self.collator, self.rollouts = Clock(), collator, rollouts
        self._whole = whole
        self._evaluate_student, self._keep_best = evaluate, keep_best
        self._terms: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}
        self._progress = 0.0
        """Share of the training that is behind, in this step."""
        self._watched: dict[str, Tensor] = {}
        """Of the terms whose targets follow them: their values in this step."""
        self._moving: dict[str, float] = {}
        self._since = (0, 0, 0.0)
        """Step, rows and busy seconds at the last logged step."""
        self._sound = torch.ones((), dtype=torch.bool, device=args.device)

    # ---- Batches and loss ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Micro-batches of one process. Not wrapped by accelerate, which would cut them anew and hold one back."""
        args = self.args
        return _Loader(
            cast("Places", self.train_dataset),
            batch_sampler=cast("Any", self.batches),
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            persistent_workers=args.dataloader_persistent_workers,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            pin_memory=args.dataloader_pin_memory,
            generator=torch.Generator(),
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Any]:
        """The micro-batches of one step, each with the step's kept rows by term, `counts`, and its `progress`.

        Answers that are to be written are written here, before anything is counted.
        """
        samples = list(islice(epoch_iterator, num_batches))
        if self.rollouts is not None:
            if self._whole is not None and any("batch" in sample for sample in samples):
                self._student().to(device)  # it writes them
            samples = self.rollouts.fill(samples)
        terms = self.distil.terms
        sums = dict.fromkeys([*terms.names, _ROWS], 0)
        for batch in samples:
            for name, count in {**self.distil.kept(batch), _ROWS: len(batch["labels"])}.items():
                sums[name] += count
        if self.args.world_size > 1:
            summed = torch.tensor(list(sums.values()), dtype=torch.int64, device=device)
            dist.all_reduce(summed)
            sums = dict(zip(sums, summed.tolist(), strict=True))
        rows = sums.pop(_ROWS)
        self.clock.rows += rows
        self._progress = self.state.global_step / self.args.max_steps
        self._moving = terms.moving(self._progress)
        for batch in samples:
            batch |= {"counts": sums, "progress": self._progress}
        return samples, rows

    def micro_batch(self, batch: Batch) -> dict[str, Any]:
        """The keywords of one micro-batch of the data's answers, all but `counts` and `progress`, on the training
        device.
        """
        return self._prepare_inputs(self.collator(batch))

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward of a micro-batch, in the recipe's precision."""
        with rounded_products(self.args.bf16):
            return super().training_step(*args, **kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The module's loss; times the number of processes, whose gradients DDP averages."""
        try:
            loss, terms = cast("tuple[Tensor, dict[str, Tensor]]", model(**inputs))
        except TrainingError as error:
            raise self._stopped(str(error)) from error
        self._last = terms
        for name, value in terms.items():
            self._terms[name] = self._terms[name] + value if name in self._terms else value
            if name in self.distil.terms.courses.adaptive:
                self._watched[name] = self._watched[name] + value if name in self._watched else value
        self._watch(loss.detach(), "loss")
        loss = loss * self.args.world_size if self.args.world_size > 1 else loss
        return (loss, terms) if return_outputs else loss

    def _advance(self) -> None:
        """After each step: let adaptive targets see their terms. All processes see the same sums."""
        if not self._watched:
            return
        names, sums = list(self._watched), self._summed(self._watched)
        self._watched = {}
        self.distil.terms.courses.advance(dict(zip(names, sums, strict=True)), self._progress)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weights to decay: all but biases, vectors, and parameters of normalisation layers."""
        norms = {
            id(p) for part in model.modules() if "norm" in type(part).__name__.lower() for p in part.parameters(False)
        }
        return [
            name
            for name, p in model.named_parameters()
            if p.dim() > 1 and id(p) not in norms and "bias" not in name.rpartition(".")[2]
        ]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule, on the plain optimizer: accelerate's wrapper searches the disk for a package in every step."""
        if isinstance(self.optimizer, AcceleratedOptimizer) and self.optimizer.scaler is None:
            self.optimizer = cast("Any", self.optimizer).optimizer
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm that clipping found, watched; without clipping none is computed."""
        if isinstance(grad_norm, DTensor):
            grad_norm = grad_norm.full_tensor()
        if isinstance(grad_norm, Tensor) and self.accelerator.scaler is None:
            self._watch(grad_norm, "gradient's norm")
        return grad_norm

    # ---- Logging and evaluation ----

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Add each term's mean over the steps since the last log, and the speed."""
        if "loss" in logs:
            if not bool(self._sound):
                raise self._stopped("the loss or its gradient is not finite")
            steps = self.state.global_step - self._since[0]
            logs["terms"] = self._mean_terms(steps)
            if self._moving:
                logs["scheduled"] = self._moving
            busy = self.clock.busy
            passed = max(busy - self._since[2], 1e-9)
            logs["rows_per_second"] = round((self.clock.rows - self._since[1]) / passed, 1)
            if self.rollouts is not None:
                logs |= told(self._summed(self.rollouts.take(self.args.device)), passed * self.args.world_size)
            self._since = (self.state.global_step, self.clock.rows, busy)
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Quality on validation, asked of the caller's function by the first process; notes and keeps the best."""
        if self._evaluate_student is None:
            metrics: dict[str, float] = {}
        else:
            with self.clock.apart():
                student = self._student()
                value = self._validate(student)
                state = self.state
                if value > (-math.inf if state.best_metric is None else state.best_metric):
                    state.best_metric, state.best_global_step = value, state.global_step
                    if self._keep_best and self.args.process_index == 0:
                        self.checkpoints.save_best(state.global_step, learned(student))
            metrics = {"validation": value}
            self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validate(self, student: nn.Module) -> float:
        value = torch.zeros((), dtype=torch.float64, device=None if self._on_mps() else self.args.device)
        if self.args.process_index == 0 and self._evaluate_student is not None:
            self.distil.eval()
            value += float(self.distil.as_exported(student.eval().to(self.args.device), self._evaluate_student))
            self.distil.train()
        if self.args.world_size > 1:
            dist.all_reduce(value)
        return float(value)

    def _student(self) -> nn.Module:
        """The student with all of its weights. Where they are sharded, all processes must ask."""
        if self._whole is None:
            return self.distil.student
        self._whole.student.load_state_dict(whole_state(self.distil.student))
        return self._whole.student

    def finish(self) -> Distil:
        """What was trained, with whole weights."""
        if self._whole is None:
            return self.distil
        self._whole.load_state_dict(whole_state(self.distil))
        return self._whole

    def _mean_terms(self, steps: int) -> dict[str, float]:
        names, sums = list(self._terms), self._summed(self._terms)
        self._terms = {}
        return {name: value / steps for name, value in sorted(zip(names, sums, strict=True))}

    def _summed(self, values: dict[str, Tensor]) -> list[float]:
        """Each value's sum over processes."""
        sums = torch.stack([value.double() if not self._on_mps() else value for value in values.values()])
        if self.args.world_size > 1:
            dist.all_reduce(sums)
        return sums.tolist()

    def _on_mps(self) -> bool:
        return self.args.device.type == "mps"  # it has no float64

    # ---- Checkpoints ----

    def resume(self, found: tuple[Path, Mark] | None) -> None:
        """Train to the end, from a checkpoint if one was found; a checkpoint of the last step is only loaded."""
        mark = None if found is None else found[1]
        if self._whole is not None:
            shard(self.distil, self.distil.student, bf16=self.args.bf16)
        self.clock = Clock() if mark is None else Clock(mark.seconds, mark.seconds - mark.busy, mark.rows)
        self.clock.started = time.perf_counter()
        self._since = (0, 0, 0.0) if mark is None else (mark.step, mark.rows, mark.busy)
        if found is not None and found[1].step >= self.args.max_steps:
            self._load_from_checkpoint(str(found[0]))
            self.state = type(self.state).load_from_json(str(found[0] / STATE))
        else:
            self.train(resume_from_checkpoint=None if found is None else str(found[0]))

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """As Transformers does it; then see that the processes share the work as they were asked to."""
        model, batches = super()._prepare_for_training(*args, **kwargs)
        wrapped = FSDPModule if self._whole is not None else DistributedDataParallel
        if isinstance(model, wrapped) != (self.args.world_size > 1):
            raise TrainingError(
                f"{self.args.world_size} processes were to train as {wrapped.__name__}, but the model became a "
                f"{type(model).__name__}. Unset the variables that configure accelerate (ACCELERATE_…)."
            )
        return model, batches

    def _defer_fsdp_gradient_reduction(self) -> Any:
        """Not deferred: gradients that wait for a step's last micro-batch are as large as all weights together."""
        return nullcontext()

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Write all that the next process needs; weights that are not finite are refused instead."""
        if not all(bool(own_part(p).isfinite().all()) for p in self.distil.parameters()):
            raise self._stopped("a weight is not finite")
        step, clock, world = self.state.global_step, self.clock, self.args.world_size
        with clock.apart():
            if self.args.process_index == 0:
                mark = Mark(
                    self.checkpoints.key, step, clock.total, clock.busy, clock.rows, self.state.best_global_step, world
                )
                with self.checkpoints.writing(mark) as place:
                    self._share_folder(place)
                    self._write(place)
                    self.state.save_to_json(str(place / STATE))
                    self._meet()
            else:
                self._write(self._share_folder(None))
                self._meet()

    def _write(self, place: Path) -> None:
        """A process's part of a checkpoint."""
        if self._whole is not None or self.args.process_index == 0:
            save_state(place, self._part, self.distil, self.optimizer)
        if self.args.process_index == 0:
            torch.save(cast("Any", self.lr_scheduler).state_dict(), place / SCHEDULE)
            self._save_scaler(str(place))
        self._save_rng_state(str(place))

    @property
    def _part(self) -> int | None:
        """Number of this process's shards; None where it holds all weights."""
        return None if self._whole is None else self.args.process_index

    def _share_folder(self, place: Path | None) -> Path:
        """Tell the other processes where the checkpoint is being written."""
        told = [str(place)]
        if self.args.world_size > 1:
            dist.broadcast_object_list(told)
        return Path(told[0])

    def _meet(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Weights of student and projectors."""
        load_weights(Path(resume_from_checkpoint), self._part, self.distil)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Moments and schedule, where a checkpoint is resumed."""
        if checkpoint is not None:
            load_optimizer(Path(checkpoint), self._part, self.optimizer)
            cast("Any", self.lr_scheduler).load_state_dict(load(Path(checkpoint) / SCHEDULE))

    # ---- Stopping ----

    def _watch(self, value: Tensor, what: str) -> None:
        if value.device.type != "cpu":
            self._sound &= value.isfinite().all()
        elif not math.isfinite(value.item()):
            raise self._stopped(f"the {what} is {value.item()}")

    def _stopped(self, cause: str) -> TrainingError:
        rate = self._get_learning_rate()
        terms = ", ".join(f"{name} {float(value):.4g}" for name, value in self._last.items()) or "none yet"
        good = self.checkpoints.newest()
        kept = f"The last good checkpoint is kept: {good[0]}." if good else "No checkpoint was written before."
        return TrainingError(
            f"{self.phase}: training stopped in step {self.state.global_step + 1} of {self.args.max_steps} "
            f"(learning rate {rate:.3g}; last terms: {terms}): {cause.rstrip('.')}. {kept} "
            "Lower training.learning_rate, raise training.warmup, set training.clip or use training.precision: fp32, "
            "and check the data for NaN; then run again."
        )


class _Loader(DataLoader[Any]):
    """A DataLoader that hands the epoch on to its batches, which is where the Trainer looks for it."""

    def set_epoch(self, epoch: int) -> None:
        cast("Batches", self.batch_sampler).set_epoch(epoch)
