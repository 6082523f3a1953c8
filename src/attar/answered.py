"""Prompts that nobody has answered become rows to train on: the teacher answers them, its likeliest token each time.

It writes in training's precision.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from pydantic import BaseModel

from attar.data.columns import canonical
from attar.data.splits import Splits
from attar.errors import TeacherError
from attar.ground import Ground, Progress
from attar.hashing import hash_value
from attar.precision import as_in_training
from attar.stages import Stages
from attar.storage import atomic_write
from attar.tasks.causal_lm import CausalLM
from attar.teacher_writes import write_as_taught

_PART = 256
"""Prompts that are answered between two files."""


class Answered(BaseModel):
    """What the `answered` stage found besides its files."""

    rows: int
    cut: int
    """Prompts whose answer did not end, and was left out."""


def with_answers(ground: Ground, stages: Stages, progress: Progress) -> Splits:
    """The splits with every transfer prompt answered; those whose answer does not end within
    `task.generation.max_tokens` are left out. Killed, it goes on after the last finished file.

    Raises TeacherError where no answer ends.
    """
    splits, task = ground.splits, ground.task
    rows = splits.transfer
    if not isinstance(task, CausalLM) or task.spec.prompt is None or rows is None:
        return splits
    prompts: list[str] = list(rows["prompt"])
    asked = task.spec.model_dump(mode="json", include={"template", "max_length", "generation"})
    route = [] if ground.routing is None else [ground.routing.of(rows).tolist()]
    precision = ground.recipe.training.precision
    key = hash_value([ground.signals_key, asked, prompts, *route, *([] if precision == "fp32" else [precision])])
    folder = ground.out / "store" / "answered" / key

    def work() -> Answered:
        written = [
            one for start in range(0, len(rows), _PART) for one in _part(ground, task, rows, start, folder, progress)
        ]
        return Answered(rows=len(rows), cut=sum(not ended for _, ended in written))

    found = stages.run("answered", key, [folder], Answered, work)
    written = [one for start in range(0, len(rows), _PART) for one in _read(_file(folder, start))]
    kept = np.array([row for row, (_, ended) in enumerate(written) if ended], dtype=np.int64)
    if not len(kept):
        raise TeacherError(
            f"data.transfer: the teacher ended none of {len(rows):,} answers within {task.spec.generation.max_tokens} "
            "tokens. Fine-tune it on answers that end (teacher.fit: full), or raise task.generation.max_tokens."
        )
    texts = [written[row][0] for row in kept.tolist()]
    whole = rows.select(kept.tolist())
    slices = list(whole["slice"]) if "slice" in rows.column_names else None
    columns = {"prompt": list(whole["prompt"]), "text": texts}
    answered = canonical(columns, np.asarray(whole["label"], dtype=np.int64), "unlabelled", slices)
    note = f"transfer: the teacher answered {len(rows):,} prompts; {found.cut} answers that did not end were left out."
    facts = splits.facts.model_copy(
        update={"rows": {**splits.facts.rows, "transfer": len(kept)}, "notes": [*splits.facts.notes, note]}
    )
    stages.say(f"data: {note}")
    return replace(splits, transfer=answered, facts=facts, hash=hash_value([splits.hash, key, texts]))


def _part(
    ground: Ground, task: CausalLM, rows: Dataset, start: int, folder: Path, progress: Progress
) -> list[tuple[str, bool]]:
    """The answers of one part, from its file or written anew."""
    file, stop = _file(folder, start), min(start + _PART, len(rows))
    if not file.is_file():
        assert ground.teacher is not None, "a language model's teacher is a model"
        teachers = [one.core for one in ground.teacher.alone.values()]
        with as_in_training(ground.recipe.training.precision, teachers, ground.device):
            said = write_as_taught(ground, task, rows.select(range(start, stop)))
        pairs = [(str(one["text"]), bool(one["ended"])) for one in said]
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps(pairs))
    progress("answering prompts", stop, len(rows))
    return _read(file)


def _file(folder: Path, start: int) -> Path:
    return folder / f"{start:09d}.json"


def _read(file: Path) -> list[tuple[str, bool]]:
    return [(text, ended) for text, ended in json.loads(file.read_text(encoding="utf-8"))]
