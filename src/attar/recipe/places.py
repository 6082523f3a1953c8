"""Where each value of a recipe was written, so that an error can name its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Path = tuple[str | int, ...]
"""A place in a recipe: keys and list positions, as in ("objectives", 1, "kind")."""


@dataclass(frozen=True)
class Place:
    """One place: `recipe.yaml:14`, or the `--set` that gave the value. `line` orders messages; 0: none."""

    text: str
    line: int = 0


@dataclass(frozen=True, eq=False)
class Places:
    """Places by path. They take no part in a recipe's equality or hash: any two compare equal."""

    origin: str = "recipe"
    known: Mapping[Path, Place] = field(default_factory=dict[Path, Place])

    def at(self, path: Path) -> Place:
        """Place of the value at `path`, or of the nearest section around it that was written down."""
        for length in range(len(path), -1, -1):
            place = self.known.get(path[:length])
            if place is not None:
                return place
        return Place(self.origin)

    def problem(self, path: Path, message: str) -> str:
        """One message in the common form: `recipe.yaml:14  objectives[1].kind: …`."""
        return f"{self.at(path).text}  {dotted(path)}: {message}" if path else f"{self.at(path).text}  {message}"

    def __eq__(self, other: object) -> bool:
        """Any two are equal: where a recipe was written does not change what it means."""
        return isinstance(other, Places)

    def __hash__(self) -> int:
        return 0


def dotted(path: Path) -> str:
    """`objectives[1].kind`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
