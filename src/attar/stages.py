"""A stage is done once: its record holds the hash of what shaped it, what it found, and the hash of what it wrote."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from attar.errors import StorageError
from attar.facts import StageFacts
from attar.hashing import hash_file, hash_folder, hash_value
from attar.ranks import ALONE, Ranks
from attar.shortage import enough_memory
from attar.storage import atomic_write, guard

CARD = "README.md"

Found = TypeVar("Found", bound=BaseModel)
Read = TypeVar("Read")


class Nothing(BaseModel):
    """What a stage finds that is done for its outputs alone."""


@dataclass
class Stages:
    """The stages of one run, with their records below `folder`, which all of its processes see."""

    folder: Path
    say: Callable[[str], None]
    ranks: Ranks = ALONE
    advice: Callable[[str], str] = lambda _: "Use a machine with more memory."
    """What to lower where a stage, by its name, lacks memory."""
    done: list[StageFacts] = field(default_factory=list[StageFacts])

    def key_of(self, name: str) -> str:
        """Hash of what shaped a stage that was done in this process."""
        return next(stage.key for stage in self.done if stage.name == name)

    def run(
        self,
        name: str,
        shaped_by: object,
        outputs: list[Path],
        found: type[Found],
        work: Callable[[], Found],
        *,
        together: bool = False,
    ) -> Found:
        """Do `work`, or return what it found before if the same things shaped it and its outputs are unchanged.

        `shaped_by` is any JSON-able value; `outputs` are the files or folders that the stage writes. Of several
        processes the first does the work and the others wait for what it found; where they do it `together`, what the
        first found counts, and it alone writes. Raises OutOfMemory where the memory is too small for it.
        """
        ranks, key = self.ranks, hash_value(shaped_by)
        ranks.require_same(key, f"what shapes the stage {name}")
        if (old := ranks.by_first(lambda: self._old(name, key, outputs, found))) is not None:
            result, seconds = old
            self.say(f"{name}: done before ({seconds:.1f} s)")
            self.done.append(StageFacts(name=name, seconds=seconds, cached=True, key=key))
            return result
        self.say(f"{name} …")
        start = time.perf_counter()
        with enough_memory(name, self.advice(name)):
            made = work() if together else None

        def finish() -> tuple[Found, float]:
            with enough_memory(name, self.advice(name)):
                result = work() if made is None else made
            seconds = time.perf_counter() - start
            self._note(name, key, outputs, result, seconds)
            return result, seconds

        result, seconds = ranks.by_first(finish)
        self.done.append(StageFacts(name=name, seconds=seconds, cached=False, key=key))
        return result

    def read(self, name: str, work: Callable[[], Read], key_of: Callable[[Read], str]) -> Read:
        """Do `work`, whose result must be in memory in every run; it is cached if the same came of it before."""
        start = time.perf_counter()
        result = work()
        seconds, key = time.perf_counter() - start, key_of(result)
        self.ranks.require_same(key, f"what the stage {name} read")
        old = self.ranks.by_first(lambda: self._old(name, key, [], Nothing))
        if old is None and self.ranks.first:
            self._note(name, key, [], Nothing(), seconds)
        cached = old is not None
        self.done.append(StageFacts(name=name, seconds=seconds if old is None else old[1], cached=cached, key=key))
        return result

    def _note(self, name: str, key: str, outputs: list[Path], found: BaseModel, seconds: float) -> None:
        content = {"key": key, "seconds": seconds, "outputs": _hashes(outputs), "found": found.model_dump(mode="json")}
        atomic_write(self._record(name), json.dumps(content))

    def _old(self, name: str, key: str, outputs: list[Path], found: type[Found]) -> tuple[Found, float] | None:
        """What the record holds, if it was shaped by the same things and its outputs still stand; else None."""
        try:
            content = json.loads(self._record(name).read_text(encoding="utf-8"))
            if content["key"] == key and all(p.exists() for p in outputs) and content["outputs"] == _hashes(outputs):
                return found.model_validate(content["found"]), float(content["seconds"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, ValidationError):
            pass
        return None

    def _record(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '-')}.json"


def _hashes(outputs: list[Path]) -> list[str]:
    """Of folders all but the card, which is written from the finished run's record."""
    return [hash_folder(p, besides=CARD) if p.is_dir() else hash_file(p) for p in outputs]


@contextmanager
def locked(out: Path, ranks: Ranks = ALONE) -> Generator[None]:
    """Hold a run's folder for this run's processes. Raises StorageError if another run works in it, it cannot be
    written, or a process does not see it.
    """
    lock = FileLock(out / ".lock")
    ranks.by_first(lambda: _take(lock, out))
    if not (out / ".lock").exists():
        raise StorageError(
            f"{out}: process {ranks.rank} of {ranks.world} does not see this folder as the first process made it. "
            "Choose an --out on a disk that all machines share."
        )
    try:
        yield
    finally:
        lock.release()


def _take(lock: FileLock, out: Path) -> None:
    with guard(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StorageError(
                f"{out}: another attar works in this folder. Wait for it, or choose another --out."
            ) from None
