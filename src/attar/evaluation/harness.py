"""EleutherAI's evaluation harness, asked about a student's folder; this file owns the package `lm_eval`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from attar.errors import DataError, MissingExtra


def run_harness(folder: Path, tasks: Sequence[str], *, limit: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """What the harness finds of each task: its metrics by name, as the harness has them.

    `folder`: a Transformers folder with a language model and its tokenizer. `limit`: examples a task; None: all. The
    harness fetches its data sets from the Hub. Raises MissingExtra without `lm_eval`, and DataError where it cannot go
    on, as for a task that it does not know.
    """
    try:
        harness: Any = importlib.import_module("lm_eval")
    except ImportError as error:
        raise MissingExtra("lm_eval", "harness", "--harness") from error
    settings = {"pretrained": str(folder), "dtype": "float32"}
    try:
        found = harness.simple_evaluate(
            model="hf", model_args=settings, tasks=list(tasks), limit=limit, device=device, log_samples=False
        )
    except Exception as error:  # tasks are programs of their authors', and the Hub client raises many types
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"--harness: {', '.join(tasks)} cannot be run: {cause}. `lm-eval ls tasks` lists the tasks; their data "
            "comes from the Hub."
        ) from error
    return cast("dict[str, Any]", found["results"])
