"""One training, from fresh or half done to final weights. Student and controls go through here alike."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch.distributed as dist
from torch import nn
from transformers import TrainerCallback

from attar.errors import TrainingError
from attar.facts import BalanceFacts, TrainingFacts
from attar.objectives.terms.balance import Balance
from attar.objectives.terms.terms import Terms
from attar.precision import full_precision_heads
from attar.recipe.rollouts import RolloutsSpec
from attar.recipe.training import TrainingSpec
from attar.tasks.base import Task
from attar.tasks.sequences import Sequences
from attar.teachers.ensemble import models_of
from attar.training.arguments import log_every, total_steps, training_arguments
from attar.training.callbacks import Bar, Events, JsonLog, Progress, Schedule, curve
from attar.training.checkpoints import Checkpoints, Mark, load_learned, repeatable
from attar.training.collate import Collator
from attar.training.distil import Distil, recompute_layers
from attar.training.gradients import gradient_norms
from attar.training.packing import packing
from attar.training.rollouts import make_rollouts, rollout_facts
from attar.training.rounding import Rounding
from attar.training.rows import Batches, TrainingRows
from attar.training.trainer import DistilTrainer, Evaluate


def train(
    model: nn.Module,
    terms: Terms,
    task: Task,
    rows: TrainingRows,
    spec: TrainingSpec,
    out: Path,
    *,
    key: str,
    rollouts: RolloutsSpec | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
    log: Path | None = None,
    phase: str = "student",
) -> TrainingFacts:
    """Train `model` in place, to the weights that `spec.keep` names, and say how it went.

    `out` belongs to this training alone and holds its checkpoints. `key` is a hash of all that shapes the training
    (recipe, data, initial weights, teacher): the newest whole checkpoint with the same key is resumed, and on the same
    machine with the same number of threads the weights come out bit for bit as without the interruption; checkpoints
    with another key are removed. `rollouts` says in which steps, and by whom, answers are written in the place of the
    data's; what learns from labels alone (a control) has none. `evaluate` gives the quality of the student on
    validation, higher is better; without it the last weights are kept. `log` gets a JSON line a logged step, `progress`
    the step and their number. `phase` names the training in both. With `spec.balance` a fresh training first probes for
    factors of the weights; a resumed one has them from its checkpoint. The model ends in eval mode, on the training
    device; random state and settings of torch are as before.

    Raises TrainingError where loss, gradient or weights stop being finite, StorageError where a checkpoint cannot be
    written, RecipeError or PlanError where the spec does not fit, and what `evaluate` raises.
    """
    with repeatable():
        trainer = make_trainer(
            model, terms, task, rows, spec, out, key=key, rollouts=rollouts, evaluate=evaluate, progress=progress,
            phase=phase,
        )  # fmt: skip
        if log is not None and trainer.args.process_index == 0:
            trainer.add_callback(JsonLog(log, phase, trainer.checkpoints.history()))
        found, balance = trainer.checkpoints.newest(), trainer.distil.terms.courses.balance
        _require_as_many(found, trainer.args.world_size)
        live = [] if rows.live is None else models_of(rows.live.model)
        with packing(spec, trainer.distil.student, rows, task) as is_packed:
            if balance is not None and found is None:
                balance.take(gradient_norms(trainer, list(balance.weights)))
            with full_precision_heads(
                [] if spec.precision == "fp32" else [trainer.distil.student, *live], len(task.labels)
            ):
                trainer.resume(found)
        state = trainer.state
        trainer.finish()
        if spec.keep == "best" and state.best_global_step is not None:
            load_learned(model, trainer.checkpoints.load_best(state.best_global_step))
        if trainer.args.world_size > 1:
            dist.barrier()  # nobody reads checkpoints any more
    rounding = trainer.distil.rounding
    if rounding is not None:
        rounding.settle(model)
    if spec.activation_checkpointing:
        recompute_layers(model, False)
    model.eval()
    clock = trainer.clock
    return TrainingFacts(
        steps=state.global_step,
        epochs=round(state.global_step / trainer.batches.steps, 4),
        rows_per_second=round(clock.rows / max(clock.busy, 1e-9), 1),
        counted="tokens" if isinstance(rows.student, Sequences) else "rows",
        packed=is_packed,
        seconds=round(clock.total, 3),
        curve=curve(state.log_history),
        best_step=state.best_global_step or state.global_step,
        initial={},
        processes=trainer.args.world_size,
        parallel=spec.parallel if trainer.args.world_size > 1 else None,
        quantization=None if rounding is None else rounding.facts(),
        balance={} if balance is None else _balance_facts(balance),
        rollouts=rollout_facts(state.log_history, clock.busy * trainer.args.world_size),
    )


def _balance_facts(balance: Balance) -> dict[str, BalanceFacts]:
    return {name: BalanceFacts(norm=balance.norms[name], factor=factor) for name, factor in balance.factors.items()}


def make_trainer(
    model: nn.Module,
    terms: Terms,
    task: Task,
    rows: TrainingRows,
    spec: TrainingSpec,
    out: Path,
    *,
    key: str,
    rollouts: RolloutsSpec | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
    phase: str = "student",
) -> DistilTrainer:
    """The trainer that `train` runs; for those who want to watch it step by step."""
    if spec.balance == "gradient_norm":
        terms.courses.balanced()
    steps = total_steps(spec, len(rows))
    args = training_arguments(spec, steps, out)
    checkpoints = Checkpoints(out, key)
    if args.process_index == 0:
        checkpoints.prepare()
    if args.world_size > 1:
        dist.barrier()
    callbacks: list[TrainerCallback] = [
        Schedule(steps, log_every=log_every(spec, steps), evaluations=spec.evaluations, checkpoints=spec.checkpoints)
    ]
    if args.process_index == 0 and progress is not None:
        callbacks.append(Bar(progress, phase))
    if args.process_index == 0 and spec.tensorboard:
        callbacks.append(Events(out.parent / "tensorboard" / phase))
    if rows.live is not None:
        rows.live.model.to(args.device)
    batches = Batches(
        rows.student.lengths, batch_size=spec.batch_size, accumulate=spec.accumulate, seed=spec.seed,
        world=args.world_size, rank=args.process_index,
    )  # fmt: skip
    collator = Collator(
        rows, task, seed=spec.seed, token_dropout=spec.token_dropout, subword_dropout=spec.subword_dropout,
        mixup=spec.mixup, in_place=terms.wanted_student.by_token,
    )  # fmt: skip
    args.gradient_accumulation_steps = batches.a_step
    if spec.activation_checkpointing:
        recompute_layers(model)
    quantization, language = spec.quantization, isinstance(rows.student, Sequences)
    rounding = None if quantization is None else Rounding(model, quantization, language=language)
    distil = Distil(model, terms, rows.live, rounding)
    whole = distil if spec.parallel == "fsdp" else None
    if whole is not None:
        distil = Distil(deepcopy(model), deepcopy(terms), rows.live)
    return DistilTrainer(
        distil, args, batches, collator, checkpoints=checkpoints, evaluate=evaluate,
        keep_best=spec.keep == "best", phase=phase, callbacks=callbacks, whole=whole,
        rollouts=rollouts and make_rollouts(rollouts, model, rows, task, batches, steps, out, key),
    )  # fmt: skip


def _require_as_many(found: tuple[Path, Mark] | None, world: int) -> None:
    """A step's rows depend on the number of processes, and each has its part of a checkpoint."""
    if found is not None and found[1].world != world:
        raise TrainingError(
            f"{found[0]}: was written by {found[1].world} processes, here are {world}: their steps hold other rows. "
            f"Go on with {found[1].world}, or remove {found[0].parent} to begin anew."
        )
