"""Every error that attar raises on purpose, as one tree.

    AttarError                     exit code 1   something attar can name went wrong
    ├── RecipeError                exit code 2   the recipe or a command-line option is wrong
    │   └── PlanError              exit code 2   the recipe is well formed but cannot work
    │       └── BudgetOutOfReach   exit code 3   nothing but its budget stands against the recipe
    ├── BudgetMissed               exit code 3   the run is done, but a budget was not met
    ├── PolicyError                exit code 4   the teacher's terms forbid the run, or are unknown
    ├── DataError                  exit code 5   a data source is absent, empty or malformed
    ├── TeacherError               exit code 6   the teacher cannot be loaded, or is unfit
    │   └── StoreError             exit code 6   stored signals are damaged or do not match
    ├── TrainingError              exit code 7   training diverged (NaN) or cannot go on
    ├── ExportError                exit code 8   an exporter failed
    │   └── ParityError            exit code 8   the exported file does not answer like the checkpoint
    ├── StorageError               exit code 9   disk full, or a folder that cannot be written
    ├── MissingExtra               exit code 10  an optional package is absent
    └── OutOfMemory                exit code 11  the memory ran out

A message names the place, what it got, what is allowed, and the next move. Ctrl-C exits with 130.
"""

from __future__ import annotations

EXIT_CODES = {
    0: "done",
    1: "an error that attar names but has no class for",
    2: "the recipe or an option is wrong",
    3: "a budget was missed, or cannot be met (then no work was done)",
    4: "the teacher's terms forbid it, or nobody has recorded that they allow it",
    5: "the data is absent, empty or malformed",
    6: "the teacher or its stored signals cannot be used",
    7: "training diverged",
    8: "an export failed, or does not answer like the checkpoint",
    9: "the disk is full or the folder cannot be written",
    10: "an optional package is absent; the message holds the pip command",
    11: "the memory ran out; the message says what to lower",
    130: "interrupted",
}
"""What the command line returns, for its help and the README."""


class AttarError(Exception):
    """Base of all errors that attar raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1
    told = False
    """Whether the first process of a run tells it, so that this one need not."""


class RecipeError(AttarError):
    """The recipe, or an option of the command line, is wrong. `problems` holds every problem found, in file order."""

    exit_code = 2

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class PlanError(RecipeError):
    """The recipe is well formed, but its parts do not fit each other or its inputs."""


class BudgetOutOfReach(PlanError):
    """Every problem of the recipe is a line of its budget that cannot be met, or cannot be decided."""

    exit_code = 3


class BudgetMissed(AttarError):
    """The run finished and is complete, but at least one budget was not met."""

    exit_code = 3


class PolicyError(AttarError):
    """The teacher's terms forbid this distillation, or nobody has recorded that they allow it."""

    exit_code = 4


class DataError(AttarError):
    """A data source is absent, empty, malformed or has unusable labels."""

    exit_code = 5


class TeacherError(AttarError):
    """The teacher cannot be loaded, or cannot serve this task."""

    exit_code = 6


class StoreError(TeacherError):
    """Stored signals are missing, damaged, or were made by something else."""


class TrainingError(AttarError):
    """Training cannot go on, for example because the loss is NaN."""

    exit_code = 7


class ExportError(AttarError):
    """An exporter failed, or its runtime lacks something that the model needs."""

    exit_code = 8


class ParityError(ExportError):
    """An exported file does not answer like the checkpoint that it came from; it is not handed over."""


class StorageError(AttarError):
    """The disk is full, or a folder cannot be written."""

    exit_code = 9


class OutOfMemory(AttarError):
    """The memory of the machine, or of its accelerator, is too small for what was asked of it."""

    exit_code = 11


class MissingExtra(AttarError):
    """An optional package is absent. The message holds the exact pip command."""

    exit_code = 10

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs the package "{package}". Install it with: pip install "attar[{extra}]"')
