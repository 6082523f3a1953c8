"""A stage is done once: its record holds the hash of what shaped it, what it found, and the hash of what it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from attar.errors import StorageError
from attar.facts import SpentFacts, StageFacts
from attar.hashing import hash_file, hash_folder, hash_value
from attar.ranks import ALONE, Ranks
from attar.shortage import enough_memory
from attar.spending import Costs, meter_for
from attar.storage import atomic_write, guard

CARD = "README.md"

Found = TypeVar("Found", bound=BaseModel)
Read = TypeVar("Read")


class Nothing(BaseModel):
    """What a stage finds that is done for its outputs alone."""


class _Old(NamedTuple, Generic[Found]):
    """What a record holds."""

    result: Found
    seconds: float
    spent: SpentFacts | None


@dataclass
class Stages:
    """The stages of one run, with their records below `folder`, which all of its processes see."""

    folder: Path
    say: Callable[[str], None]
    ranks: Ranks = ALONE
    advice: Callable[[str], str] = lambda _: "Use a machine with more memory."
    """What to lower where a stage, by its name, lacks memory."""
    device: str = "cpu"
    """On which stages work: its energy is read where it has a counter."""
    done: list[StageFacts] = field(default_factory=list[StageFacts])

    def __post_init__(self) -> None:
        self.costs = Costs(self.folder, meter_for(self.device))

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
            self.say(f"{name}: done before ({old.seconds:.1f} s)")
            self._add(name, key, old.seconds, old.spent, cached=True)
            return old.result
        self.say(f"{name} …")
        with self.costs.attempt(name, writes=ranks.first) as attempt:
            with enough_memory(name, self.advice(name)):
                made = work() if together else None
            all_spent = attempt.spent(ranks) if together else None

            def finish() -> tuple[Found, SpentFacts]:
                with enough_memory(name, self.advice(name)):
                    result = work() if made is None else made
                spent = all_spent or attempt.spent()
                attempt.replaced = self._note(name, key, outputs, result, spent)
                return result, spent

            result, attempt.result = ranks.by_first(finish)
        self._add(name, key, attempt.result.seconds, attempt.result, cached=False)
        return result

    def read(self, name: str, work: Callable[[], Read], key_of: Callable[[Read], str]) -> Read:
        """Do `work`, whose result must be in memory in every run; it is cached if the same came of it before."""
        with self.costs.attempt(name, writes=self.ranks.first) as attempt:
            result = work()
            spent, key = attempt.spent(), key_of(result)
            self.ranks.require_same(key, f"what the stage {name} read")
            old = self.ranks.by_first(lambda: self._old(name, key, [], Nothing))
            if old is None and self.ranks.first:
                attempt.replaced = self._note(name, key, [], Nothing(), spent)
            attempt.result = spent
        if old is None:
            self._add(name, key, spent.seconds, spent, cached=False)
        else:
            self._add(name, key, old.seconds, old.spent, cached=True)
        return result

    def _add(self, name: str, key: str, seconds: float, spent: SpentFacts | None, *, cached: bool) -> None:
        earlier = self.costs.before(name) if self.ranks.first else None
        one = StageFacts(name=name, seconds=seconds, cached=cached, key=key, spent=spent, earlier=earlier)
        self.done.append(one)

    def _note(self, name: str, key: str, outputs: list[Path], found: BaseModel, spent: SpentFacts) -> SpentFacts | None:
        """Write the record; returns what the one in its place had taken."""
        content = {
            "key": key,
            "seconds": spent.seconds,
            "outputs": _hashes(outputs),
            "found": found.model_dump(mode="json"),
            "spent": spent.model_dump(mode="json"),
        }
        replaced = _spent(self._read(name))
        atomic_write(self._record(name), json.dumps(content))
        return replaced

    def _old(self, name: str, key: str, outputs: list[Path], found: type[Found]) -> _Old[Found] | None:
        """What the record holds, if it was shaped by the same things and its outputs still stand; else None."""
        try:
            content = self._read(name)
            if content["key"] == key and all(p.exists() for p in outputs) and content["outputs"] == _hashes(outputs):
                return _Old(found.model_validate(content["found"]), float(content["seconds"]), _spent(content))
        except (ValueError, KeyError, TypeError, ValidationError):
            pass
        return None

    def _read(self, name: str) -> dict[str, Any]:
        """The record as it is; empty where it is absent or damaged."""
        try:
            content = json.loads(self._record(name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _record(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '-')}.json"


def _spent(content: dict[str, Any]) -> SpentFacts | None:
    """What a stage took, by its record; None: it was done by an attar that did not count."""
    try:
        return SpentFacts.model_validate(content["spent"])
    except (KeyError, ValidationError):
        return None


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
