"""Problems and warnings, collected while a recipe is checked, so that all of them are told at once."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from attar.errors import AttarError, BudgetOutOfReach, MissingExtra, PlanError
from attar.recipe.places import Path, Places, dotted


class Notes:
    """Collects problems by the place in the recipe that causes them."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.warnings: list[str] = []
        self.foretold: list[str] = []
        self._problems: list[tuple[int, str]] = []
        self._of_budget_alone = True

    def problem(self, path: Path, message: str) -> None:
        """The recipe cannot work because of what stands at `path`."""
        self._of_budget_alone &= path[:1] == ("budget",)
        self._problems.append((self.places.at(path).line, self.places.problem(path, message)))

    def warn(self, path: Path, message: str) -> None:
        """The recipe works, but the user should hear this."""
        self.warnings.append(f"{dotted(path)}: {message}" if path else message)

    def foretell(self, path: Path, message: str) -> None:
        """A warning of what is only measured later: it says nothing any more once that is done."""
        self.warn(path, message)
        self.foretold.append(self.warnings[-1])

    @contextmanager
    def at(self, path: Path) -> Generator[None]:
        """Take up an error of attar's as a problem of the place `path`, and go on."""
        try:
            yield
        except MissingExtra as error:
            self.problem(path, str(error))
        except AttarError as error:
            for line in str(error).splitlines():
                self.problem(path, line)

    def finish(self) -> None:
        """Raise PlanError with every problem in file order, if there is any; BudgetOutOfReach if all are its lines."""
        if self._problems:
            ordered = sorted(self._problems, key=lambda problem: problem[0] or 1 << 30)
            kind = BudgetOutOfReach if self._of_budget_alone else PlanError
            raise kind(list(dict.fromkeys(text for _, text in ordered)))
