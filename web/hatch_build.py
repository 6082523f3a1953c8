"""A wheel brings the built page along: hatchling calls `make web` before it packs one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageHook(BuildHookInterface):
    """Builds the page, or warns that the wheel is without it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling; an editable install leaves the page to `make env`."""
        if version == "editable":
            return
        try:
            subprocess.run(["make", "--no-print-directory", "web"], cwd=Path(self.root), check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"the page of `attar serve` is not in this wheel: {error}")
