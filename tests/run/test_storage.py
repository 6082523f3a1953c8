"""What the system refuses to write becomes a StorageError that names the place and the next move."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

import attar.students.build
from attar.errors import ParityError, StorageError
from attar.facts import SourceFacts
from attar.storage import atomic_file, atomic_folder, atomic_write, guard
from attar.students.build import save_student
from attar.teachers.fitted import FittedFacts, save_fitted
from tiny import tiny_bert, tiny_tokenizer

LABELS = ("a", "b")
TOKENIZER = tiny_tokenizer(["red cats run"])
FITTED = FittedFacts(
    fit="full", form="model", labels=LABELS, problem="single_label", metric="accuracy", validation=0.5, train_rows=4,
    validation_rows=4, seconds=1.0, seed=0, source=SourceFacts(role="teacher", name="t", hash="0" * 16),
)  # fmt: skip
FULL = 'Error while serializing: I/O error: No space left on device (os error 28) at path "model.safetensors"'


def store_student(out: Path) -> None:
    with atomic_folder(out) as folder:
        save_student(tiny_bert(TOKENIZER, LABELS), TOKENIZER, folder)


def store_teacher(out: Path) -> None:
    save_fitted(tiny_bert(TOKENIZER, LABELS), TOKENIZER, FITTED, out)


@pytest.mark.parametrize("store", [store_student, store_teacher])
@pytest.mark.parametrize("error", [SafetensorError(FULL), Exception("No space left on device (os error 28)")])
def test_a_full_disk_is_known_whoever_writes(
    store: Any, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    by = "save_pretrained"
    monkeypatch.setattr(type(TOKENIZER) if type(error) is Exception else attar.students.build.PreTrainedModel, by, fail)
    with pytest.raises(StorageError, match=r"model: cannot write: the disk is full; .*resumes"):
        store(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_writers_that_are_really_refused_are_understood(tmp_path: Path) -> None:
    """The system's limit on the size of a file stands for a full disk: the same calls of the same writers fail."""
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from run import test_storage as t\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "for store in (t.store_student, t.store_teacher):\n"
        "    try:\n        store(Path(sys.argv[1]) / 'model')\n"
        "    except t.StorageError as error:\n        print(error)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 2
    assert all("cannot write: a file may not grow that large here" in line for line in told)


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT, errno.ELOOP, errno.EISDIR])
def test_every_refusal_has_its_advice(number: int, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write: .*choose a"), guard(tmp_path):
        raise OSError(number, os.strerror(number))


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, told in (
        (tmp_path / "file" / "x.yaml", "not a folder|stands where a folder"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        with pytest.raises(StorageError, match=told):
            atomic_write(path, "x")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "new" / "model.bin"
    with atomic_file(out) as partial:
        partial.write_bytes(b"whole")
        assert not out.exists()

    def stop_halfway() -> None:
        with atomic_file(out) as partial:
            partial.write_bytes(b"ha")
            raise ParityError("half")

    with pytest.raises(ParityError, match="half"):
        stop_halfway()
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert out.read_bytes() == b"whole"


def test_other_errors_pass(tmp_path: Path) -> None:
    for error in (ParityError("parity"), ValueError("x"), SafetensorError("header too small"), OSError("no number")):
        with pytest.raises(type(error), match=str(error)), guard(tmp_path):
            raise error
