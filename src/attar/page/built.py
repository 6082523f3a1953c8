"""The page's own files, as `make web` builds them into the package from `web/`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from attar.errors import AttarError
from attar.hashing import files_below

GPU = "asyncify"
"""In the name of the runtime's files for WebGPU: 27 MB, never in a wheel, fetched only when a visitor asks."""


def built_page() -> Path:
    """The folder of the built page. Raises AttarError where it was not built."""
    place = Path(str(files("attar.page").joinpath("static")))
    if not (place / "index.html").is_file():
        raise AttarError(
            f"{place}: the page is not built in this installation. In attar's source: `make web`, which needs node 18 "
            "or newer with npm (Debian: apt install nodejs npm). A wheel brings the page along."
        )
    return place


def page_files(place: Path) -> dict[str, Path]:
    """Every file of the built page by its path."""
    return {name: place / name for name in files_below(place)}
