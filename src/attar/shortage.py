"""Where the memory runs out: what did, and what to lower, by the stage in which it happened."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager

from attar.devices import device_of
from attar.errors import OutOfMemory
from attar.precision import computed_in
from attar.recipe import Recipe
from attar.recipe.task import CausalLMSpec
from attar.recipe.teacher import AskedSpec, EnsembleSpec, LocalTeacherSpec

_SAID = re.compile(r"out of memory|not enough memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)
"""By torch's allocators (CUDA, MPS, CPU) and the system, in a RuntimeError or OSError."""
_SHOWN = 200
KEPT = "What is finished is kept: the same command goes on from there."


def ran_out(error: BaseException) -> bool:
    """Does an error say that there was not enough memory?"""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and _SAID.search(str(error)) is not None
    )


@contextmanager
def enough_memory(what: str, advice: str) -> Generator[None]:
    """Turn a lack of memory within the block into OutOfMemory, which says what was being done and what to lower."""
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        raise OutOfMemory(told(error, what, advice)) from error


def told(error: BaseException, what: str, advice: str) -> str:
    """The message."""
    said = " ".join(str(error).split()) or type(error).__name__
    said = said if len(said) <= _SHOWN else said[:_SHOWN] + "…"
    return f"{what}: the memory ran out ({said}). {advice} {KEPT}"


def advice_for(recipe: Recipe, stage: str) -> str:
    """What to lower where a stage of the recipe's run lacks memory, each with the value that it has."""
    name, training = stage.rpartition("/")[2], recipe.training
    longest = getattr(recipe.task, "max_length", None)
    shorter = [] if longest is None else [f"lower task.max_length ({longest})"]
    if name in ("student", "control", "control_random"):
        ways = []
        if training.batch_size > 1:
            half = max(training.batch_size // 2, 1)
            more = training.accumulate * -(-training.batch_size // half)
            ways.append(
                f"lower training.batch_size ({training.batch_size} to {half}, with training.accumulate {more} for the "
                "same step)"
            )
        ways += shorter
        if not training.activation_checkpointing:
            ways.append("set training.activation_checkpointing: true")
        fewer = computed_in("bf16", device_of(training.device)) == "bf16"
        if fewer and training.precision == "fp32" and isinstance(recipe.task, CausalLMSpec):
            ways.append("set training.precision: bf16")
        return _any_of([*ways, "make the student smaller"])
    if name == "signals" and isinstance(recipe.teacher, AskedSpec):
        return _any_of([f"lower teacher.batch_tokens ({recipe.teacher.batch_tokens})", *shorter])
    if name.startswith("teacher/") and isinstance(recipe.teacher, EnsembleSpec):
        member = name.removeprefix("teacher/")
        size = recipe.teacher.members[member].fitting.batch_size
        lower = [f"lower teacher.members.{member}.fitting.batch_size ({size})"] if size > 1 else []
        return _any_of([*lower, *shorter])
    if name == "teacher" and isinstance(recipe.teacher, LocalTeacherSpec):
        size = recipe.teacher.fitting.batch_size
        return _any_of([*([f"lower teacher.fitting.batch_size ({size})"] if size > 1 else []), *shorter])
    return _any_of([*shorter, "close other programs", "use a machine with more memory"])


def _any_of(ways: list[str]) -> str:
    sentence = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])}, or {ways[-1]}"
    return f"{sentence[0].upper()}{sentence[1:]}."
