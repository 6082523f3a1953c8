"""Files of fixed shapes: one row a call, each text padded to one length; the attention mask leaves the padding out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from attar.errors import ExportError
from attar.export.runtimes.base import CARD, Array

MASK = "attention_mask"
KEY = "static"
"""Of the card."""


@dataclass(frozen=True)
class Shapes:
    """What a file of fixed shapes reads, as its card has it."""

    inputs: tuple[str, ...]
    """Names, in the order of the file's own inputs."""
    length: int | None = None
    """Tokens of a text; None: images, which have one size."""
    fill: dict[str, int] = field(default_factory=dict[str, int])
    """What stands behind a shorter text, by input; 0 where an input is not named."""
    left: bool = False
    """Whether it stands before the text."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From the card in an export's folder. Raises ExportError."""
        file = folder / CARD
        try:
            told: dict[str, Any] = json.loads(file.read_bytes())[KEY]
            inputs = tuple(told.pop("inputs"))
            return cls(inputs, **told)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExportError(f"{file}: does not tell the shapes of the model beside it. Export again.") from error

    def card(self) -> dict[str, Any]:
        """As it stands in the card."""
        return asdict(self)

    def rows(self, inputs: dict[str, Array]) -> list[dict[str, Array]]:
        """Each row as a batch of one, padded anew to `length`. Raises ExportError where a text is longer."""
        count = len(next(iter(inputs.values())))
        if self.length is None:
            return [{name: value[row : row + 1] for name, value in inputs.items()} for row in range(count)]
        return [self._text({name: value[row] for name, value in inputs.items()}, self.length) for row in range(count)]

    def _text(self, row: dict[str, Array], length: int) -> dict[str, Array]:
        real = row[MASK].astype(bool)
        tokens = int(real.sum())
        if tokens > length:
            raise ExportError(
                f"the file reads texts of {length} tokens at most, but one has {tokens}. Shorten it, or export again "
                f"with `length: {tokens}`."
            )
        places = slice(length - tokens, length) if self.left else slice(0, tokens)
        made: dict[str, Array] = {}
        for name, value in row.items():
            made[name] = np.full((1, length), self.fill.get(name, 0), value.dtype)
            made[name][0, places] = value[real]
        return made
