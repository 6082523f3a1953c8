"""Runs for the page: which there are, their headlines, and what the browser needs to run one's student."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from attar.errors import AttarError
from attar.facts import ArtifactFacts, Facts, RunFacts
from attar.hashing import sha256
from attar.page.reading import Reader, reader_of
from attar.recipe.energy import WATTS, WATTS_SOURCE
from attar.recipe.load import load_recipe
from attar.report.headline import kept, sentence, shipped
from attar.report.load import NAME as RECORD
from attar.report.load import load_run, require_artifact
from attar.report.numbers import share, size

RECIPE, REPORT = "recipe.yaml", "report.html"
KINDS = ("onnx", "web")
"""Exports that the page's runtime runs."""
WATTS_NOTE = (
    "Energy is estimated: processor seconds (in the browser: wall seconds) times "
    f"{WATTS[0]:g} to {WATTS[1]:g} watts a busy core, {WATTS_SOURCE}. No browser measures joules."
)


class PageFile(Facts):
    """One file that the browser fetches, by its path in the run's folder."""

    path: str
    bytes: int
    sha256: str


class PageStudent(Facts):
    """One exported file that the page can run."""

    name: str = Field(description="Kind and precision: onnx-int8.")
    model: PageFile
    files: dict[str, PageFile] = Field(description="What its reader needs, by file name.")
    inputs: list[str]
    temperature: float = Field(description="Logits over this are calibrated.")
    reader: Reader


class PageTeacher(Facts):
    """The teacher beside it: asked over the loopback, or answers on sample rows that came with the page."""

    name: str
    bytes: int
    asked: Literal["live", "samples"]


class Page(Facts):
    """`page.json` of a run: all that the browser needs to know of it."""

    name: str
    title: str
    headline: str
    problem: Literal["single_label", "multi_label", "regression"]
    labels: list[str]
    students: list[PageStudent] = Field(description="The smallest file first; empty where none can run here.")
    refused: str | None = Field(description="Why no student runs here.")
    teacher: PageTeacher
    watts: tuple[float, float] = WATTS
    watts_note: str = WATTS_NOTE


class Listed(Facts):
    """A run in `runs.json`."""

    name: str = Field(description="Its folder's, and the page's address of it.")
    title: str = ""
    headline: str = ""
    kept: str | None = None
    teacher: str = ""
    student: str = ""
    task: str = ""
    created: str = ""
    problem: str | None = Field(default=None, description="Why this run is not shown.")


def find_runs(place: Path) -> dict[str, Path]:
    """The folders of runs by name: the folder itself where it is one, else those in it. Raises AttarError: none."""
    if not place.is_dir():
        raise AttarError(f"{place}: there is no such folder. Name a run's folder, or one that holds several.")
    if (place / RECORD).is_file():
        return {place.resolve().name: place}
    found = {folder.name: folder for folder in sorted(place.iterdir()) if (folder / RECORD).is_file()}
    if not found:
        raise AttarError(f"{place}: holds no finished run ({RECORD}). Make one: attar distill recipe.yaml")
    return found


def listed(name: str, folder: Path) -> Listed:
    """A run's line in the list; one that cannot be read, or whose files were changed, says why."""
    try:
        facts = load_run(folder)
        for artifact in _runnable(facts):
            require_artifact(folder, artifact)
    except AttarError as error:
        return Listed(name=name, title=name, problem=str(error))
    found, file = kept(facts), shipped(facts)
    return Listed(
        name=name,
        title=facts.name,
        headline=sentence(facts),
        kept=None if found is None else share(found.interval),
        teacher=size(facts.teacher.bytes),
        student=size(facts.student.bytes if file is None else file.bytes),
        task=facts.task.replace("_", " "),
        created=facts.lineage.created[:10],
    )


def page_of(folder: Path, asked: Literal["live", "samples"] = "live") -> Page:
    """All that the page needs of a run. Raises AttarError where a file is not the one that `run.json` speaks of."""
    facts = load_run(folder)
    students, reasons = list[PageStudent](), list[str]()
    for artifact in sorted(_runnable(facts), key=lambda a: a.bytes):
        place = require_artifact(folder, artifact)
        try:
            reader = reader_of(load_recipe(folder / RECIPE), place)
        except AttarError as error:
            reasons.append(str(error))
            continue
        students.append(_student(folder, facts, artifact, place, reader))
    if not reasons and not students:
        reasons = [f"no export of this run is for browsers. Add one: attar export {folder} --to web-int8"]
    return Page(
        name=folder.resolve().name,
        title=facts.name,
        headline=sentence(facts),
        problem=_problem(facts),
        labels=facts.data.labels,
        students=students,
        refused=None if students else reasons[0],
        teacher=PageTeacher(name=facts.teacher.name, bytes=facts.teacher.bytes, asked=asked),
    )


def files_of(page: Page) -> dict[str, PageFile]:
    """Every file of a run that its page may fetch, by its path in the run's folder; the report apart."""
    return {file.path: file for one in page.students for file in (one.model, *one.files.values())}


def read_checked(folder: Path, file: PageFile) -> bytes:
    """The bytes of one of a page's files. Raises AttarError where they changed after the page was told of them."""
    place = (folder / file.path).resolve()
    if not place.is_relative_to(folder.resolve()) or not place.is_file() or sha256(place) != file.sha256:
        raise AttarError(
            f"{folder / file.path}: was changed after the page was told of it; it is not served. Load the page again."
        )
    return place.read_bytes()


def _student(folder: Path, facts: RunFacts, artifact: ArtifactFacts, place: Path, reader: Reader) -> PageStudent:
    model = next(file for pattern in ("model*.onnx", "onnx/model*.onnx") for file in sorted(place.glob(pattern)))
    beside = [place / name for name in reader.files if (place / name).is_file()]
    calibration = facts.evaluation.calibration
    return PageStudent(
        name=f"{artifact.kind}-{artifact.precision}",
        model=_file(folder, model, artifact.sha256),
        files={file.name: _file(folder, file, sha256(file)) for file in beside},
        inputs=artifact.inputs,
        temperature=1.0 if calibration is None else calibration.temperature,
        reader=reader,
    )


def _file(folder: Path, file: Path, digest: str) -> PageFile:
    return PageFile(path=file.relative_to(folder).as_posix(), bytes=file.stat().st_size, sha256=digest)


def _runnable(facts: RunFacts) -> list[ArtifactFacts]:
    return [artifact for artifact in facts.artifacts if artifact.kind in KINDS]


def _problem(facts: RunFacts) -> Literal["single_label", "multi_label", "regression"]:
    task = facts.recipe.get("task")
    found = task.get("problem") if isinstance(task, dict) else None
    return found if found in ("multi_label", "regression") else "single_label"  # pyright: ignore[reportReturnType]
