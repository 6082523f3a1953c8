"""Answers that are written in the middle of the training, and become micro-batches like those of the data's answers.

The trainer asks for them before it counts a step's tokens. The ids that were sampled are the ids that both models
score: nothing is turned into text and cut into tokens again. Shape letters: n sequences of a micro-batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from attar.facts import RolloutFacts
from attar.generation import Sampling, alike, ends_of
from attar.heads import head_width
from attar.known import Known
from attar.objectives.sequence import on_policy
from attar.recipe.rollouts import RolloutsSpec
from attar.tasks.base import NO_LABEL, Encoded, Processor, Task
from attar.tasks.sequences import Sequences, prompt_lengths, with_answers
from attar.training.collate import Collator
from attar.training.endpoint import EndpointWriter, Kept
from attar.training.rows import Batch, Batches, TrainingRows
from attar.training.writers import Prompt, StudentWriter, Writer

_TOGETHER = 64
"""Prompts that are answered together, at most."""
_PLACE = 2**32
"""More than a micro-batch has tokens."""


@dataclass(frozen=True)
class Turns:
    """Which steps learn from written answers: the same for all processes, whose steps take the same time then."""

    fraction: float
    first: int
    """Steps at the beginning that learn from the data's answers."""
    seed: int
    an_epoch: int
    """Steps an epoch."""
    pieces: int
    """Micro-batches a step, over all processes."""

    @classmethod
    def of(cls, spec: RolloutsSpec, batches: Batches, steps: int) -> Turns:
        """For a training of `steps` steps."""
        pieces = batches.a_step * batches.world
        return cls(spec.fraction, math.ceil(spec.cold_start * steps), batches.seed, batches.steps, pieces)

    def written(self, batch: Batch) -> bool:
        """Whether this micro-batch's step learns from written answers."""
        step = batch.epoch * self.an_epoch + batch.number // self.pieces
        return step >= self.first and on_policy(step, fraction=self.fraction, seed=self.seed)


@dataclass(frozen=True)
class Deferred:
    """A collator that leaves a micro-batch as it is where its answers are still to be written."""

    collator: Callable[[Batch], dict[str, Any]]
    turns: Turns

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """The micro-batch; or the batch itself, as `batch`."""
        return {"batch": batch} if self.turns.written(batch) else self.collator(batch)


def make_rollouts(
    spec: RolloutsSpec,
    student: nn.Module,
    rows: TrainingRows,
    task: Task,
    batches: Batches,
    steps: int,
    out: Path,
    key: str,
) -> Rollouts | None:  # fmt: skip
    """What a training of `steps` steps needs to write answers; None where the spec wants none.

    `out` and `key` as `train` has them: what a server wrote is kept there. Raises as `EndpointWriter` does.
    """
    if not spec.fraction:
        return None
    turns = Turns.of(spec, batches, steps)
    writer: Writer
    if spec.source == "student":
        writer = StudentWriter(student, rows.processor, Sampling(spec.temperature, spec.top_p), batches.seed)
    else:
        ends = ends_of(student, rows.processor)
        kept = Kept.of(out, key, batches.rank)
        writer = EndpointWriter(spec, kept, ends, batches.seed, head_width(student))
    labelled = spec.source != "student"
    return Rollouts(writer, rows, task, turns=turns, longest=spec.max_new_tokens, labelled=labelled)


@dataclass
class Written:
    """What one process wrote since this was last taken."""

    texts: int = 0
    tokens: int = 0
    at_limit: int = 0
    """Texts without an end."""
    seconds: float = 0.0


def told(sums: Sequence[float], passed: float) -> dict[str, Any]:
    """For the log, from the sums over processes of what `take` gives, and the seconds that passed on all of them."""
    texts, tokens, at_limit, seconds = sums
    if not texts:
        return {}
    lengths = {"texts": int(texts), "length": tokens / texts, "at_limit": at_limit / texts}
    return {"rollouts": {**lengths, "seconds": round(seconds, 3), "share_of_time": round(seconds / passed, 4)}}


def rollout_facts(history: Sequence[dict[str, Any]], passed: float) -> RolloutFacts | None:
    """Of a whole training, from its log and the seconds of all its steps; None where nothing was written."""
    found = [cast("dict[str, float]", entry["rollouts"]) for entry in history if "rollouts" in entry]
    texts = sum(int(one["texts"]) for one in found)
    if not texts:
        return None
    mean = {name: sum(one[name] * one["texts"] for one in found) / texts for name in ("length", "at_limit")}
    share = sum(one["seconds"] for one in found) / max(passed, 1e-9)
    return RolloutFacts(texts=texts, **mean, share_of_time=round(min(share, 1.0), 4))


class Rollouts:
    """Writes the answers of a step's micro-batches and collates them.

    `longest` is the recipe's `max_new_tokens`; an answer also ends where sequence or model do, on either side. The
    data's labels say nothing about what the student writes: with `labelled` False all labels are -100, so that terms
    that read labels take no part. With True (the teacher writes) the written tokens are the labels.
    """

    def __init__(
        self, writer: Writer, rows: TrainingRows, task: Task, *, turns: Turns, longest: int, labelled: bool
    ) -> None:
        self.writer, self.rows, self.task, self.turns = writer, rows, task, turns
        self.longest, self.labelled = longest, labelled
        self._written = Written()

    def take(self, device: torch.device) -> dict[str, Tensor]:
        """Texts, tokens, texts without an end and seconds since the last time; they count anew from here."""
        found, self._written = asdict(self._written), Written()
        return {name: torch.tensor(float(value), device=device) for name, value in found.items()}

    def fill(self, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """A step's micro-batches of this process, those that were deferred with answers."""
        deferred = [cast("Batch", sample["batch"]) for sample in samples if "batch" in sample]
        if not deferred:
            return list(samples)
        start = time.perf_counter()
        answers = self._answers(np.concatenate([batch.rows for batch in deferred]).tolist(), deferred[0].epoch)
        self._written.seconds += time.perf_counter() - start
        return [self._collated(sample["batch"], answers) if "batch" in sample else sample for sample in samples]

    def _answers(self, rows: Sequence[int], epoch: int) -> dict[int, list[int]]:
        """By row: what was written, cut to its room; nothing where there is none."""
        prompts = [self._prompt(row) for row in sorted(rows)]
        answers: dict[int, list[int]] = {prompt.row: [] for prompt in prompts}
        asked = [prompt for prompt in prompts if prompt.room > 0]
        for group in alike([len(prompt.ids) for prompt in asked], _TOGETHER):
            chosen = [asked[at] for at in group]
            for prompt, answer in zip(chosen, self.writer(chosen, epoch), strict=True):
                answers[prompt.row] = answer[: prompt.room]
        said, ends = self._written, self.writer.ends
        said.texts += len(answers)
        said.tokens += sum(len(answer) for answer in answers.values())
        said.at_limit += sum(not answer or answer[-1] not in ends for answer in answers.values())
        return answers

    def _prompt(self, row: int) -> Prompt:
        ours = cast("Sequences", self.rows.student)
        length = int(prompt_lengths(ours, [row])[0])
        room = min(self.longest, self._limit(self.rows.processor) - length)
        live = self.rows.live
        if live is not None and live.encoded is not ours:
            theirs = int(prompt_lengths(cast("Sequences", live.encoded), [row])[0])
            room = min(room, self._limit(live.processor) - theirs)
        return Prompt(row, ours.inputs["input_ids"][row][:length], room)

    def _limit(self, processor: Processor) -> int:
        return min(self.task.spec.max_length, int(processor.model_max_length))

    def _collated(self, batch: Batch, answers: dict[int, list[int]]) -> dict[str, Any]:
        """A micro-batch of the student's and the teacher's prompts, each with the same written tokens."""
        source, rows = self.rows, batch.rows
        chosen = [answers[row] for row in rows.tolist()]
        ours = with_answers(cast("Sequences", source.student), rows, chosen)
        live = source.live
        if live is not None:
            live = replace(live, encoded=self._theirs(live.encoded, rows, chosen, ours, live.known))
        written = replace(source, student=ours, live=live)
        collator = Collator(
            written, self.task, seed=0, token_dropout=0.0, subword_dropout=0.0, mixup=0.0, in_place=False
        )
        made = collator(Batch(np.arange(len(rows)), batch.epoch, batch.number))
        made["rows"] = cast("Tensor", made["rows"]) + batch.number * _PLACE
        if not self.labelled:
            made |= {"labels": torch.full_like(made["labels"], NO_LABEL), "written": True}
        return made

    def _theirs(
        self, encoded: Encoded, rows: np.ndarray, answers: list[list[int]], ours: Sequences, known: Known | None
    ) -> Sequences:
        """The teacher's view: its own prompts, and the written tokens by the numbers that it has for them."""
        if encoded is self.rows.student:
            return ours
        if known is not None:
            numbers = known.outputs.cpu().numpy()
            answers = [numbers[answer].tolist() for answer in answers]
        return with_answers(cast("Sequences", encoded), rows, answers)
