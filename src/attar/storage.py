"""Writing so that a killed process or a full disk leaves the old state or the new one, never half of each."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from attar.errors import StorageError

_PARTIAL = ".partial"
_CAUSES = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; choose another --out",
    errno.EACCES: "permission is denied; choose another --out or change the folder's mode",
    errno.EPERM: "permission is denied; choose another --out or change the folder's mode",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another --out",
}


@contextmanager
def guard(place: Path) -> Generator[None]:
    """Turn the operating system's refusal to write below `place` into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        cause = _CAUSES.get(error.errno or 0)
        if cause is None:
            raise
        where = error.filename or place
        raise StorageError(
            f"{where}: cannot write: {cause}. Finished stages are kept; the same command resumes."
        ) from error


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a whole file, or leave what was there. Raises StorageError."""
    with guard(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}{_PARTIAL}")
        with partial.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """Yield an empty folder beside `path` that takes its place when the block ends well. Raises StorageError."""
    with guard(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}{_PARTIAL}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.replace(path)
