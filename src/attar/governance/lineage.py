"""What shaped a run: sources, code, packages, machine, time. Names no host, no user and no path of this machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from attar.facts import LineageFacts, SourceFacts
from attar.governance.portable import portable
from attar.hashing import hash_file, hash_value
from attar.recipe import Recipe
from attar.version import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "datasets",
    "pyarrow",
    "huggingface-hub",
    "timm",
    "pillow",
    "numpy",
    "scipy",
    "scikit-learn",
    "onnx",
    "onnxruntime",
    "onnxscript",
)
_GIB = 1 << 30
_SUFFIXES = {".py", ".yaml", ".css"}
_BUILT = "static"
"""Folder of the page's built files, which are there or not."""


def collect(recipe: Recipe, sources: Sequence[SourceFacts]) -> LineageFacts:
    """The lineage of a run of `recipe` that read `sources`; the time is now."""
    return LineageFacts(
        recipe_hash=recipe.hash,
        sources=[source.model_copy(update={"name": portable(source.name)}) for source in sources],
        code={"attar": __version__, "source": source_hash()},
        packages=package_versions(),
        machine=machine(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@cache
def source_hash() -> str:
    """Hash of attar's own source files, wherever it is installed."""
    root = Path(__file__).parents[1]
    files = sorted(p for p in root.rglob("*") if p.suffix in _SUFFIXES and _BUILT not in p.parts)
    return hash_value([[p.relative_to(root).as_posix(), hash_file(p)] for p in files])


def package_versions() -> dict[str, str]:
    """Versions of Python and of those `PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """System, processor, cores, memory; the accelerator too where torch is loaded already and sees one."""
    facts = {"system": f"{platform.system()} {platform.machine()}", "processor": _processor(), "cores": str(_cores())}
    if (memory := _memory()) is not None:
        facts["memory"] = f"{memory / _GIB:.1f} GiB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["accelerator"] = str(torch.cuda.get_device_name())
    return facts


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _memory() -> int | None:
    """Bytes of memory, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
