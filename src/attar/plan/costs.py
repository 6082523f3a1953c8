"""What a run is expected to take: disk, memory and time. Rough, from sizes alone; each says what it rests on."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from attar.plan.budget import BYTES
from attar.plan.ensemble import specs_of
from attar.plan.lengths import Lengths
from attar.plan.notes import Notes
from attar.plan.result import Estimate, SignalsPlan
from attar.plan.rows import RowsFound
from attar.plan.sizes import read_field
from attar.plan.student import StudentFound
from attar.plan.targets import BYTES_A_TOKEN
from attar.plan.teacher import TeacherFound, image_size, outputs_of
from attar.recipe import Recipe
from attar.recipe.student import FromConfigSpec
from attar.recipe.task import CausalLMSpec
from attar.recipe.teacher import LocalTeacherSpec
from attar.storage import guard

_FLOAT = 4
_STATE = 3
"""Copies of the weights in a checkpoint: the weights and AdamW's two moments."""
_FLOPS_PER_CORE = 3.5e10
"""fp32 arithmetic a second and core that small models reach in PyTorch on a common CPU."""
_STEP_OVERHEAD = 0.012
"""Seconds that a training step takes whatever the model's size."""
_PIECES_PER_WORD = 1.35
_DEFAULT_TOKENS = 32.0
_ACTIVATIONS = 16
"""Values held a token, layer and unit of width while gradients are computed."""
_DECODER_ACTIVATIONS = (10, 4)
"""The same in a causal language model: of each unit of width, and of the feed-forward width."""
_LOGITS = 3 * 25e6
"""Blocks of logits that a language model's loss holds: the student's, their gradient, the teacher's."""


@dataclass(frozen=True)
class Work:
    """Counts that all estimates share; None where a count is not known."""

    rows: int | None
    """Of language models: sequences."""
    all_rows: int | None
    tokens: float
    longest: float
    """Tokens of the longest row, as it is cut."""
    steps: int | None
    checkpoints: int
    models: int
    """Students trained: the student itself and its controls."""


def estimate(
    recipe: Recipe,
    teacher: TeacherFound,
    student: StudentFound,
    rows: RowsFound,
    signals: SignalsPlan,
    lengths: Lengths | None,
    out: Path,
    notes: Notes,
) -> tuple[Estimate, ...]:
    """Disk, memory and time of a run; problems where the disk or the memory cannot hold it."""
    work = _work(recipe, rows, lengths)
    disk = _disk(recipe, teacher, student, work, rows, signals, out)
    memory = _memory(recipe, teacher, student, work)
    if disk.value is not None and disk.available is not None and disk.value > disk.available:
        notes.problem((), f"disk: the run is expected to write {disk}. Free some space, or choose another --out.")
    if memory.value is not None and memory.available is not None and memory.value > memory.available:
        more = " (and raise training.accumulate as much)" if isinstance(recipe.task, CausalLMSpec) else ""
        notes.warn((), f"memory: {memory}. Lower training.batch_size{more} or task.max_length if it runs out.")
    return disk, memory, _time(recipe, teacher, student, work, signals)


def _work(recipe: Recipe, rows: RowsFound, lengths: Lengths | None) -> Work:
    training = recipe.training
    more = 1.0 if lengths is None else lengths.a_row
    count = _times(rows.training_rows, more)
    tokens = _tokens_of_a_row(recipe, rows) if lengths is None else lengths.mean
    steps = (
        None
        if count is None
        else math.ceil(training.epochs * math.ceil(count / (training.batch_size * training.accumulate)))
    )
    controls = 0 if rows.plan.labelled is False else int(training.control) + int(training.control_random)
    return Work(
        rows=count,
        all_rows=_times(rows.all_rows, more),
        tokens=tokens,
        longest=tokens if lengths is None else min(lengths.longest, getattr(recipe.task, "max_length", 1)),
        steps=training.max_steps or steps,
        checkpoints=max(training.checkpoints, 1),
        models=1 + controls,
    )


def _times(count: int | None, more: float) -> int | None:
    return None if count is None else math.ceil(count * more)


def _tokens_of_a_row(recipe: Recipe, rows: RowsFound) -> float:
    longest = getattr(recipe.task, "max_length", 1)
    if image_size(recipe) is not None:
        return 1.0
    if not rows.texts:
        return min(_DEFAULT_TOKENS, longest)
    lengths = [min(2 + _PIECES_PER_WORD * len(text.split()), longest) for text in rows.texts]
    return sum(lengths) / len(lengths)


def _disk(
    recipe: Recipe,
    teacher: TeacherFound,
    student: StudentFound,
    work: Work,
    rows: RowsFound,
    signals: SignalsPlan,
    out: Path,
) -> Estimate:
    with guard(out):
        here = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
        free = float(shutil.disk_usage(here).free)
    outputs = outputs_of(recipe, rows)
    size = student.plan.params.likely
    if size is None or outputs is None or work.all_rows is None:
        return Estimate("disk", None, "bytes", "the student's size or the number of rows is not known yet", free)
    hidden = sum(teacher.plan.hidden or 0 for signal in signals.needed if signal.startswith("hidden"))
    labelled = work.all_rows * (outputs + hidden) * _FLOAT
    if isinstance(recipe.task, CausalLMSpec):
        labelled = (work.rows or 0) * work.tokens * BYTES_A_TOKEN
    elif teacher.members:  # a store each, of its own rows where they are routed, and the joined one
        labelled *= 2 if teacher.routed else 1 + len(teacher.members)
    store = labelled if signals.mode == "store" else 0
    checkpoints = 0 if _frozen(recipe) else size * _FLOAT * _STATE * min(work.checkpoints, 2) * work.models
    folders = size * _FLOAT * work.models + sum(int(size * BYTES[e.precision]) for e in recipe.export)
    fitted = bool(_fitted(recipe)) * (teacher.plan.bytes or 0)
    parts = {"signals": store, "checkpoints": checkpoints, "models": folders + fitted}
    basis = ", ".join(f"{name} {part / 1e6:.0f} MB" for name, part in parts.items())
    return Estimate("disk", float(store + checkpoints + folders + fitted), "bytes", basis, free)


def _frozen(recipe: Recipe) -> bool:
    """Whether all but the small matrices of LoRA stays as it is."""
    return not isinstance(recipe.student, FromConfigSpec) and recipe.student.lora is not None


def _fitted(recipe: Recipe) -> list[LocalTeacherSpec]:
    """The teachers that are fitted, each by itself."""
    return [spec for spec in specs_of(recipe) if spec.fit != "none"]


def _memory(recipe: Recipe, teacher: TeacherFound, student: StudentFound, work: Work) -> Estimate:
    if recipe.training.device not in ("auto", "cpu"):
        return Estimate("memory", None, "bytes", f"the memory of {recipe.training.device} is not looked at")
    size = student.plan.params.likely
    theirs = teacher.plan.params.likely
    if size is None or (theirs is None and teacher.offers is None):
        return Estimate("memory", None, "bytes", "a model's size is not known yet", _free_memory())
    if isinstance(recipe.task, CausalLMSpec):
        return _language_memory(recipe, student, work, size, theirs or 0)
    batches = [spec.fitting.batch_size for spec in _fitted(recipe) if spec.fit == "full"]
    fits = bool(batches)
    training = size * _FLOAT * (_STATE + 1)
    teaching = (theirs or 0) * _FLOAT * (_STATE + 1 if fits else 1)
    active = max(
        _activations(recipe.training.batch_size, work.tokens, student.plan.layers, student.plan.hidden),
        _activations(max(batches), work.tokens, teacher.plan.layers, teacher.plan.hidden) if fits else 0.0,
    )
    basis = "weights, gradients, AdamW's moments and activations; Python and PyTorch take about 0.7 GB besides"
    return Estimate("memory", training + teaching + active, "bytes", basis, _free_memory())


def _language_memory(recipe: Recipe, student: StudentFound, work: Work, size: int, theirs: int) -> Estimate:
    """Training of a language model: its state, the teacher, the longest batch's activations, and the loss."""
    plan = student.plan
    wide, inner = plan.hidden or 1, read_field(student.config, "inner") or 4 * (plan.hidden or 1)
    held = _DECODER_ACTIVATIONS[0] * wide + _DECODER_ACTIVATIONS[1] * inner
    tokens = 0 if plan.tokens is None or _frozen(recipe) else plan.tokens.likely or 0
    state = size * _FLOAT * (1 if _frozen(recipe) else _STATE + 1)
    parts = {
        "weights" if _frozen(recipe) else "weights, gradients and AdamW's moments": state,
        "the teacher": theirs * _FLOAT,
        "activations": recipe.training.batch_size * work.longest * (plan.layers or 1) * held * _FLOAT,
        "blocks of logits": _LOGITS,
        "the head's gradient": tokens * wide * _FLOAT,
    }
    basis = ", ".join(f"{name} {part / 1e9:.2g} GB" for name, part in parts.items())
    fitting = theirs * _FLOAT * (_STATE + 1) if _fitted(recipe) else 0
    most = float(max(sum(parts.values()), fitting))
    return Estimate("memory", most, "bytes", f"{basis}; Python and PyTorch besides", _free_memory())


def _activations(batch: int, tokens: float, layers: int | None, hidden: int | None) -> float:
    return batch * tokens * (layers or 1) * (hidden or 1) * _ACTIVATIONS * _FLOAT


def _free_memory() -> float | None:
    """Bytes that a process may still take, where the system tells."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def _time(recipe: Recipe, teacher: TeacherFound, student: StudentFound, work: Work, signals: SignalsPlan) -> Estimate:
    device = recipe.training.device
    if device not in ("auto", "cpu") or (device == "auto" and Path("/proc/driver/nvidia/version").exists()):
        return Estimate("time", None, "seconds", "only CPU time is estimated before work begins")
    if student.count is None or work.steps is None or work.rows is None or work.all_rows is None:
        return Estimate("time", None, "seconds", "the student's arithmetic or the number of rows is not known yet")
    live = signals.mode in ("live", "store")
    theirs = teacher.flops(work.tokens)
    if live and theirs is None:
        return Estimate("time", None, "seconds", "the teacher's arithmetic is not known yet")
    cores = (
        recipe.training.threads or len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )
    speed = _FLOPS_PER_CORE * cores
    batch = recipe.training.batch_size * recipe.training.accumulate
    theirs = theirs or 0.0
    step = max(3 * student.count.flops(work.tokens) * batch / speed, _STEP_OVERHEAD)
    total = work.steps * step * work.models
    total += (
        (work.steps * batch if signals.mode == "live" else work.all_rows if signals.mode == "store" else 0)
        * theirs
        / speed
    )
    for spec, one in zip(specs_of(recipe), teacher.alone, strict=False):
        total += _fitting(recipe, spec, work, one.flops(work.tokens) or 0.0, speed)
    machine = f"{cores} cores at {_FLOPS_PER_CORE / 1e9:g} GFLOP/s each"
    written = "; writing rollouts comes on top" if recipe.rollouts is not None and recipe.rollouts.fraction else ""
    basis = f"{work.steps:,} steps, {work.models} students, {machine}; within a factor of 3{written}"
    return Estimate("time", total, "seconds", basis)


def _fitting(recipe: Recipe, spec: LocalTeacherSpec, work: Work, flops: float, speed: float) -> float:
    """Seconds that fitting a teacher takes: passes over the training rows, thrice the arithmetic where it learns."""
    if spec.fit == "none" or work.rows is None:
        return 0.0
    transfer = sum(getattr(spec, "rows", 0) or 0 for spec in recipe.data.transfer)
    train = max(work.rows - transfer, 0)
    if spec.fit == "probe":
        return train * flops / speed
    fitting = spec.fitting
    steps = fitting.epochs * math.ceil(train / fitting.batch_size)
    return steps * max(3 * flops * fitting.batch_size / speed, _STEP_OVERHEAD)
