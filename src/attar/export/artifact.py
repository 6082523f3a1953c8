"""What every exported file shares: a folder that is handed over or refused, and its record."""

from __future__ import annotations

import shutil
from collections.abc import Container, Generator
from contextlib import contextmanager
from pathlib import Path

from attar.errors import ParityError
from attar.facts import ArtifactFacts, ParityFacts
from attar.hashing import files_below, sha256
from attar.recipe.outcome import ExportSpec
from attar.storage import atomic_folder, atomic_write


@contextmanager
def handed_over(out: Path) -> Generator[Path]:
    """A new folder that becomes `out`, or `out`.refused with the reason inside where the block raises ParityError."""
    refused = out.with_name(f"{out.name}.refused")
    shutil.rmtree(refused, ignore_errors=True)
    with atomic_folder(out) as folder:
        try:
            yield folder
        except ParityError as error:
            shutil.rmtree(out, ignore_errors=True)
            folder.rename(refused)
            atomic_write(refused / "REFUSED.txt", f"{error}\n")
            raise


def record(
    spec: ExportSpec,
    out: Path,
    root: Path,
    *,
    file: str,
    beside: Container[str],
    parity: ParityFacts,
    inputs: list[str],
    outputs: list[str],
    runtime: str,
    note: str,
) -> ArtifactFacts:
    """The record of the folder `out`, told relative to `root`, with the model in `file`; quality and latency are
    measured for all files at once. Files `beside` it are the tokenizer's or image processor's, and count apart.
    """
    sizes = {name: (out / name).stat().st_size for name in files_below(out)}
    apart = sum(size for name, size in sizes.items() if name in beside)
    hashes = {name: sha256(out / name) for name in sizes}
    return ArtifactFacts(
        kind=spec.kind,
        precision=spec.precision,
        path=out.relative_to(root).as_posix(),
        bytes=sum(sizes.values()) - apart,
        tokenizer_bytes=apart,
        sha256=hashes[file],
        files=hashes,
        quality=None,
        parity=parity,
        latency_ms=None,
        inputs=inputs,
        outputs=outputs,
        runtime=runtime,
        note=note,
    )
