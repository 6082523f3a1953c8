"""Optional packages, asked for where they are used."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from attar.errors import MissingExtra
from attar.export.quiet import silent


def need(module: str, extra: str, purpose: str) -> Any:
    """An optional package's module, imported in silence. Raises MissingExtra with the pip command."""
    if (found := sys.modules.get(module)) is not None:
        return found
    try:
        with silent():
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(module.split(".")[0], extra, purpose) from error
