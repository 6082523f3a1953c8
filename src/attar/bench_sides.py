"""Who is measured by `attar bench`: a finished run's teacher, control, student and files, and how each is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from attar.bench.measure import median_row
from attar.bench.process import Inputs, Subject
from attar.data.load import load_data
from attar.errors import AttarError, ExportError, MissingExtra
from attar.export.decoding import DecoderRunner
from attar.export.reference import teacher_file
from attar.export.runtimes.onnx import OnnxRunner, graph_in
from attar.facts import ArtifactFacts, BenchedFacts, ModelFacts, RunFacts
from attar.facts.bench import Role
from attar.handover import RECIPE
from attar.recipe import Recipe
from attar.recipe.load import load_recipe
from attar.recipe.teacher import LocalTeacherSpec
from attar.report.headline import artifact_name
from attar.report.load import load_whole, require_artifact
from attar.report.numbers import plain
from attar.tasks import make_task
from attar.tasks.base import Encoded, Processor, Task
from attar.tasks.causal_lm import CausalLM
from attar.teachers.finished import teacher_of
from attar.teachers.fitted import TEACHER as FITTED
from attar.teachers.local import LocalTeacher

TEACHER, REFERENCE = "teacher", "teacher, onnxruntime fp32"


@dataclass
class Side:
    """One model: what is known of it, and how it is loaded; without `subject` the notes say why it is not measured."""

    facts: BenchedFacts
    subject: Subject | None = None
    tokens: int | None = None
    """Of a language model's row."""


@dataclass
class Run:
    """A finished run, opened."""

    folder: Path
    facts: RunFacts
    recipe: Recipe
    task: Task
    rows: Dataset
    sides: list[Side] = field(default_factory=list[Side])

    def row(self, processor: Processor) -> Inputs:
        """A validation row of median length, as a batch of one."""
        encoded = self.encode(processor)
        batch = self.task.batch(encoded, [median_row(encoded)], processor)
        return {name: value.numpy() for name, value in batch.items()}

    def told(self, reason: object) -> str:
        """Why something is not measured, without this machine's folders."""
        text = str(reason)
        for folder in (self.folder.resolve(), self.folder.absolute(), self.folder):
            text = text.replace(f"{folder}/", "")
        return text

    def encode(self, processor: Processor) -> Encoded:
        """The validation rows, as a model reads them."""
        return self.task.encode(self.rows, processor)


def open_run(folder: Path) -> Run:
    """A finished run with its validation rows. Raises AttarError where a file is not the one of its record."""
    facts, recipe = load_whole(folder), load_recipe(folder / RECIPE)
    for artifact in facts.artifacts:
        require_artifact(folder, artifact)
    # Transfer rows are many and slow to make, and none of them is asked.
    data = recipe.data.model_copy(update={"transfer": ()})
    rows = load_data(recipe.model_copy(update={"data": data})).validation
    return Run(folder, facts, recipe, make_task(recipe.task, tuple(facts.data.labels)), rows)


def add_teachers(run: Run, say: Callable[[str], None]) -> None:
    """The teacher as the run has it, and as an ONNX file in fp32."""
    facts, quality = run.facts, run.facts.quality
    known: dict[str, Any] = {
        "role": "teacher", "runtime": None, "bytes": facts.teacher.bytes, "quality": quality.teacher,
        "quality_interval": quality.intervals.get("teacher"),
    }  # fmt: skip
    own, file = (Side(BenchedFacts(name=name, **known)) for name in (TEACHER, REFERENCE))
    run.sides += [own, file]
    try:
        teacher, _ = teacher_of(run.folder, run.recipe, run.task)
    except AttarError as error:
        for side in (own, file):
            side.facts.notes.append(run.told(f"not measured: {error}"))
        return
    inputs = run.row(teacher.processor)
    own.tokens = file.tokens = _tokens(run, inputs)
    own.subject = _teacher_subject(run, teacher, inputs)
    try:
        path, note = teacher_file(
            run.folder / "store" / "bench", teacher, run.task, run.encode(teacher.processor), inputs, say
        )
    except (ExportError, MissingExtra) as error:
        file.facts.notes.append(run.told(f"not measured: {error}"))
        return
    file.subject = Subject("onnx", _fed(run.task, path, inputs), path)
    file.facts = file.facts.model_copy(update={"bytes": path.stat().st_size, "notes": [note]})


def _teacher_subject(run: Run, teacher: LocalTeacher, inputs: Inputs) -> Subject:
    task, folder = run.task, teacher.folder
    if folder is not None and (folder / FITTED).is_file():
        return Subject("fitted", inputs, folder, task.spec, task.labels)
    spec = run.recipe.teacher
    if not isinstance(spec, LocalTeacherSpec):
        spec = LocalTeacherSpec(kind="local", model=str(folder))
    return Subject("local", inputs, None, task.spec, task.labels, spec)


def add_students(run: Run) -> None:
    """Control and student, as their folders have them."""
    facts, quality = run.facts, run.facts.quality
    roles: list[tuple[Role, ModelFacts | None]] = [("control", facts.control), ("student", facts.student)]
    for role, known in roles:
        place = run.folder / role
        if known is None:
            continue
        side = Side(
            BenchedFacts(
                name=role, role=role, runtime=None, bytes=known.bytes, quality=getattr(quality, role),
                quality_interval=quality.intervals.get(role),
            )
        )  # fmt: skip
        run.sides.append(side)
        if not (place / "config.json").is_file():
            side.facts.notes.append(f"not measured: {role}/ is no folder of Transformers or timm")
            continue
        inputs = run.row(run.task.load_processor(place))
        side.tokens = _tokens(run, inputs)
        side.subject = Subject("folder", inputs, place, run.task.spec, run.task.labels)


def add_files(run: Run) -> None:
    """Every exported file, through its own runtime."""
    run.sides += [_file(run, artifact) for artifact in run.facts.artifacts]


def _file(run: Run, artifact: ArtifactFacts) -> Side:
    side = Side(
        BenchedFacts(
            name=plain(artifact_name(artifact)), role="file", runtime=None, bytes=artifact.bytes,
            quality=artifact.quality, quality_interval=artifact.quality_interval,
        )
    )  # fmt: skip
    place = run.folder / artifact.path
    if artifact.kind == "gguf":
        side.facts.notes.append("not measured: no runtime of GGUF files is driven here")
        return side
    inputs = run.row(run.task.load_processor(place))
    side.tokens = _tokens(run, inputs)
    side.subject = file_subject(run.task, artifact, place, inputs)
    return side


def file_subject(task: Task, artifact: ArtifactFacts, place: Path, inputs: Inputs) -> Subject:
    """How an exported file in its folder `place` is measured on a batch; of any kind but GGUF."""
    if isinstance(task, CausalLM):
        file = graph_in(place)
        return Subject("onnx", _fed(task, file, inputs), file, dtype=artifact.precision)
    taken = {name: value for name, value in inputs.items() if name in artifact.inputs}
    return Subject("artifact", taken, place, opens=artifact.kind, dtype=artifact.precision)


def _fed(task: Task, file: Path, inputs: Inputs) -> Inputs:
    """What an ONNX file takes: of a decoder an empty past too."""
    if isinstance(task, CausalLM):
        return DecoderRunner(file).feed(inputs["input_ids"], inputs["attention_mask"])
    return {name: inputs[name] for name in OnnxRunner(file).inputs}


def _tokens(run: Run, inputs: Inputs) -> int | None:
    return inputs["input_ids"].shape[1] if isinstance(run.task, CausalLM) else None
