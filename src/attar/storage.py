"""Writing so that a killed process or a full disk leaves the old state or the new one, never half of each."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from attar.errors import AttarError, StorageError

_PARTIAL = ".partial"
_CAUSES = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "a file may not grow that large here; raise the limit (ulimit -f) or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "permission is denied; choose another place or change the folder's mode",
    errno.EPERM: "permission is denied; choose another place or change the folder's mode",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
    errno.EEXIST: "a file stands where a folder is to be made; choose another place",
    errno.EISDIR: "a folder stands where a file is to be made; choose another place",
    errno.ENOENT: "a folder of the path is gone or cannot be made; choose another place",
    errno.ENAMETOOLONG: "a name in the path is too long for this file system; choose a shorter one",
    errno.ELOOP: "links in the path lead in a circle; choose another place",
}
_RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers, which write by Rust and raise errors of their own, report the system's number."""


@contextmanager
def guard(place: Path) -> Generator[None]:
    """Turn the operating system's refusal to write below `place` into a StorageError that says what to do."""
    try:
        yield
    except AttarError:
        raise
    except Exception as error:
        cause = _CAUSES.get(_number(error))
        if cause is None:
            raise
        where = getattr(error, "filename", None) or place
        raise StorageError(
            f"{where}: cannot write: {cause}. Finished stages are kept; the same command resumes."
        ) from error


def _number(error: Exception) -> int:
    """The system's error number; 0 where the error is of another kind."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = _RUST.search(str(error))
    return int(told[1]) if told else 0


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
def atomic_file(path: Path) -> Generator[Path]:
    """Yield a place beside `path` for a file that takes its place when the block ends well, and goes otherwise.

    Raises StorageError.
    """
    with guard(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}{_PARTIAL}")
        try:
            yield partial
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


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
