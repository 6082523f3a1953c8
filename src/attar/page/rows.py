"""A row that the page sends to the teacher, and what the teacher says of it. Without torch, which comes later."""

from __future__ import annotations

from pydantic import Field, ValidationError

from attar.errors import DataError
from attar.facts import Facts


class Asked(Facts):
    """One row from the page: a text, a pair, or an image."""

    text: str | None = None
    pair: str | None = None
    image: str | None = Field(default=None, description="data: URL of a PNG or JPEG.")


class Said(Facts):
    """What the teacher says of a row, and what that took on this machine."""

    values: list[float] = Field(description="A probability a label; for regression the number.")
    milliseconds: float = Field(description="Median of some repeats, the model alone.")
    cpu_seconds: float = Field(description="Likewise, over all threads.")


def read_asked(body: bytes) -> Asked:
    """A row from a request's body. Raises DataError."""
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        raise DataError(f"the row is not one that the page sends: {error.errors()[0]['msg']}.") from None
