"""The teacher of a finished run, asked for one row at a time: what stands beside the student on the page."""

from __future__ import annotations

import base64
import binascii
import io
import threading
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor

from attar.answers import answers, probabilities
from attar.errors import DataError
from attar.page.rows import Asked, Said
from attar.page.runs import RECIPE
from attar.recipe.load import load_recipe
from attar.report.load import load_run
from attar.signals import Wanted, ask
from attar.tasks import make_task
from attar.tasks.base import Task
from attar.teachers.finished import teacher_of
from attar.teachers.local import LocalTeacher

_REPEATS = 3
_DATA_URL = "base64,"


class RunTeacher:
    """A run's teacher, loaded when the first row comes. Answers one row at a time, whichever thread asks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def answer(self, row: Asked) -> Said:
        """What the teacher says of a row. Raises AttarError where it is not there any more, DataError for the row."""
        with self._lock:
            task, teacher, temperature = self._loaded
            encoded = task.encode(_rows(row, task), teacher.processor)
            batch = task.batch(encoded, [0], teacher.processor)
            found, milliseconds, cpu_seconds = _timed(teacher, batch)
        if task.problem == "regression":
            values = answers(found, task.problem)
        else:
            values = probabilities(found / temperature, task.problem)
        return Said(
            values=[float(v) for v in np.ravel(values)], milliseconds=milliseconds, cpu_seconds=cpu_seconds
        )  # fmt: skip

    def load(self) -> None:
        """Load it now, so that the first row need not wait. Raises AttarError."""
        with self._lock:
            _ = self._loaded

    @cached_property
    def _loaded(self) -> tuple[Task, LocalTeacher, float]:
        facts, recipe = load_run(self._folder), load_recipe(self._folder / RECIPE)
        task = make_task(recipe.task, tuple(facts.data.labels))
        return task, *teacher_of(self._folder, recipe, task)


def _timed(teacher: LocalTeacher, batch: dict[str, Tensor]) -> tuple[np.ndarray, float, float]:
    """Logits float32 [1, C] of a batch of one row, and medians of milliseconds and of processor seconds."""
    taken = list[tuple[float, float]]()
    found = np.empty(0, np.float32)
    for _ in range(_REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            logits = ask(teacher.model, batch, Wanted()).dense_logits
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
        assert logits is not None
        found = logits.float().numpy()
    wall, cpu = np.median(taken, axis=0)
    return found, 1000 * float(wall), float(cpu)


def _rows(row: Asked, task: Task) -> Dataset:
    if task.spec.kind == "image_classification":
        return Dataset.from_dict({"image": [_image(row.image)]})
    wanted = {"text": row.text}
    if task.spec.text_pair is not None:
        wanted["text_pair"] = row.pair
    if absent := [name for name, value in wanted.items() if value is None]:
        raise DataError(f"the row has no {absent[0]}.")
    return Dataset.from_dict({name: [value] for name, value in wanted.items()})


def _image(url: str | None) -> Image.Image:
    head, found, content = (url or "").partition(_DATA_URL)
    if not found or not head.startswith("data:image/"):
        raise DataError("the row has no image (a data: URL of a PNG or JPEG).")
    try:
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True)), formats=("PNG", "JPEG")) as image:
            return image.convert("RGB")
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the image cannot be read: {error}.") from None
