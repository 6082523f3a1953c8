"""The nearest name: what a message offers when it meets a name that is not allowed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LIKENESS = 0.6
_SHOWN = 24


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that looks most like `name` (case apart), or None where none is near."""
    by_folded: dict[str, str] = {}
    for known in names:
        by_folded.setdefault(known.casefold(), known)
    found = get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=_LIKENESS)
    return by_folded[found[0]] if found else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` Did you mean "x"?`, or an empty text."""
    near = nearest(name, names)
    return "" if near is None else f' Did you mean "{near}"?'


def listed(names: Iterable[str], shown: int = _SHOWN) -> str:
    """Names for people, comma-separated; of a long list the first `shown` and how many more there are."""
    every = list(names)
    more = f", … ({len(every) - shown} more)" if len(every) > shown else ""
    return ", ".join(every[:shown]) + more
