"""What a person sees while a run works: one line a stage, and a bar where standard error is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Terminal:
    """Progress on standard error, so that standard output holds results alone."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=self._console, transient=True, disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Terminal:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """Print one line above the bars."""
        self._console.print(line, markup=False, emoji=False, soft_wrap=True)

    def progress(self, message: str, done: int, total: int) -> None:
        """Move the bar that bears this message; it goes when it is full."""
        task = self._tasks.get(message)
        if task is None:
            task = self._tasks[message] = self._bars.add_task(message, total=total)
        self._bars.update(task, completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(message))
