"""From a recipe to the ground of its seeds: load the data, fit or load the teacher, make sure of its signals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_never

import numpy as np

from attar.answered import with_answers
from attar.data.load import load_data
from attar.data.splits import Splits
from attar.devices import device_of
from attar.errors import DataError, PlanError, StoreError
from attar.facts import ModelFacts, PolicyFacts, SourceFacts
from attar.ground import Ground, Handed, Objective, Progress, Say
from attar.heads import head_width, verify_head
from attar.identity import hash_module, hash_processor
from attar.judges import shared_by
from attar.language_store import label_language, open_language, targets_of_store
from attar.layer_choice import LayerMaps, choose_layers, pools_of
from attar.plan.objectives import signals_mode
from attar.plan.targets import NEEDS_TEACHER
from attar.ready_teachers import ready_teacher
from attar.recipe import Recipe
from attar.recipe.objectives import PythonSpec
from attar.recipe.student import PretrainedSpec
from attar.recipe.targets import SAMPLED
from attar.recipe.task import CausalLMSpec
from attar.recipe.teacher import EnsembleSpec, LocalTeacherSpec, StoredTeacherSpec
from attar.row_store import label_rows
from attar.signals import Inside, Wanted
from attar.stages import Stages
from attar.students.student import Student
from attar.tasks import CausalLM, make_task
from attar.tasks.base import Processor, Task
from attar.tasks.vocabularies import shared_outputs
from attar.teachers.local import find_origin, made_up_row
from attar.teachers.origin import find_model, own_labels
from attar.teachers.preflight import preflight
from attar.teachers.several import routing_of
from attar.teachers.store import Store, open_store
from attar.teachers.stored import find_rescorer, open_stored, spot_check, stored_processor
from attar.teachers.token_store import TokenStore


def prepare(
    recipe: Recipe, out: Path, stages: Stages, *, handed: Handed, policy: PolicyFacts, progress: Progress
) -> Ground:
    """Load the data, fit or load the teacher, and make sure that its signals are there.

    `policy` knows the licences of the teacher and of what the student starts from.
    """
    splits = stages.read("data", lambda: load_data(recipe, handed.rows), lambda found: found.hash)
    for note in splits.facts.notes:
        stages.say(f"data: {note}")
    named = isinstance(recipe.task, CausalLMSpec) or splits.labels
    task = make_task(recipe.task, splits.labels if named else _teacher_labels(recipe, handed))
    ground = _with_teacher(recipe, out, task, splits, stages, handed, progress)
    for at, licence in enumerate([policy.licence, *(member.licence for member in policy.members)]):
        ground.sources[at] = ground.sources[at].model_copy(update={"licence": licence})
    ground.splits = splits = with_answers(ground, stages, progress)
    student = ground.student(recipe.training.seed)
    if handed.student is not None or isinstance(recipe.student, PretrainedSpec):
        ground.start = (hash_module(student.model), hash_processor(student.processor))
    ground.sources += [*splits.sources, *_student_source(ground, policy)]
    ground.chosen = _choose(ground, student, stages)
    wanted = ground.terms(student, ground.objectives, recipe.training.seed).wanted_teacher
    wanted = Wanted(logits=True, hidden=wanted.hidden)
    if isinstance(task, CausalLM):
        return _language(ground, student, stages, progress)
    match recipe.teacher:
        case StoredTeacherSpec() as spec:
            ground.store = stages.read(
                "signals", lambda: _opened(ground, spec, wanted), lambda store: store.manifest.key
            )
        case spec:
            ground.store = label_rows(ground, spec, wanted, _about(ground), stages, progress)
    _judge(ground, stages.say)
    return ground


def _language(ground: Ground, student: Student, stages: Stages, progress: Progress) -> Ground:
    """What can be known to fail in training fails here; where the teacher is not asked in every step, it is now."""
    task = ground.task
    assert ground.teacher is not None
    teachers = [(one.core, one.processor) for one in ground.teacher.alone.values()]
    for model, processor in (*teachers, (student.model, student.processor)):
        verify_head(model, made_up_row(processor, task))
    _require_one_language(ground, student)
    known, spec = shared_by(ground, student.model, student.processor), ground.recipe.teacher
    rollouts = ground.recipe.rollouts
    if rollouts is not None and rollouts.source == "vllm" and known is not None:
        raise PlanError(
            "rollouts.source: the served teacher writes tokens by its own numbers, and this student has others. Use a "
            "student with all of the teacher's tokens, or source: student."
        )
    if isinstance(spec, StoredTeacherSpec):
        ground.store = stages.read(
            "signals", lambda: open_language(ground, spec, student.processor, known), lambda store: store.manifest.key
        )
    elif not ground.live:
        ground.store = label_language(ground, spec, student.processor, known, _about(ground), stages, progress)
    ground.truncated = _cut_rows(ground, ground.processor if known is None else student.processor, stages.say)
    return ground


def _cut_rows(ground: Ground, reader: Processor, say: Say) -> int:
    """How many rows are cut as `reader` reads them. Says which parts have prompts that leave no room for an answer;
    raises DataError where no row of a part has anything left to tell.
    """
    task, splits, cut = ground.task, ground.splits, 0
    parts = {"train": splits.train, "transfer": splits.transfer, "validation": splits.validation, "test": splits.test}
    for name, rows in parts.items():
        if rows is None:
            continue
        encoded = task.encode(rows, reader)
        cut += encoded.truncated
        empty = np.flatnonzero(encoded.labels == 0)
        if not len(empty):
            continue
        told = (
            f"{name}: in {len(empty):,} of {len(encoded):,} rows (row {int(empty[0])} is the first) no token is left "
            f"to learn: what stands before the answer fills task.max_length ({task.spec.max_length}). Raise it, or "
            "leave such rows out."
        )
        if len(empty) == len(encoded):
            raise DataError(told)
        ground.warnings.append(told)
        say(f"WARNING: {told}")
    return cut


def _require_one_language(ground: Ground, student: Student) -> None:
    """Raise PlanError where objectives compare token by token what two tokenizers cut otherwise."""
    terms = ground.terms(student, ground.objectives, ground.recipe.training.seed)
    if terms.one_by_one and ground.reads_otherwise(student.processor):
        widths = {"student_width": head_width(student.model), "teacher_width": 0}
        shared_outputs(student.processor, ground.processor, **widths)


def _choose(ground: Ground, student: Student, stages: Stages) -> LayerMaps:
    """Which layers are compared, where the recipe leaves that to CKA: before signals, whose layers it decides."""
    if not pools_of(ground.objectives):
        return LayerMaps()
    recipe, teacher = ground.recipe, ground.teacher
    spec = recipe.teacher
    if isinstance(spec, StoredTeacherSpec):
        asked, identity = (store := open_stored(spec, ground.task, Wanted())), store.manifest.key
    else:
        assert teacher is not None
        asked, identity = teacher, [teacher.source.hash, ground.fitted]
    shaped_by = [
        [recipe.student.model_dump(mode="json", exclude={"licence"}), recipe.training.seed, *ground.start],
        [identity, recipe.task.model_dump(mode="json"), ground.splits.hash],
        [o.model_dump(mode="json") for o in recipe.objectives],
    ]
    return choose_layers(
        ground.objectives, ground.task, ground.splits.train, student, asked, stages,
        shaped_by=shaped_by, device=ground.device,
    )  # fmt: skip


def _teacher_labels(recipe: Recipe, handed: Handed) -> tuple[str, ...]:
    """The label names that the teacher itself bears, for data without labels."""
    if handed.teacher is not None:
        named: dict[int, str] | None = getattr(getattr(handed.teacher, "config", None), "id2label", None)
        if named is None:
            raise PlanError("task.labels: absent, and neither the data nor the teacher names its labels. List them.")
        return tuple(named[i] for i in sorted(named))
    match recipe.teacher:
        case LocalTeacherSpec():
            if recipe.teacher.fit != "none":
                raise PlanError(
                    f"teacher.fit: {recipe.teacher.fit} needs labels, but the data has none. Use a teacher that has a "
                    "head (fit: none), or name the label column."
                )
            return own_labels(find_origin(recipe.teacher).folder)
        case EnsembleSpec():
            first = next(iter(recipe.teacher.members))
            return _teacher_labels(recipe.model_copy(update={"teacher": recipe.teacher.alone(first)}), handed)
        case StoredTeacherSpec():
            from attar.teachers.manifest import find_store, read_manifest

            return read_manifest(find_store(Path(recipe.teacher.path))).labels
        case _:
            assert_never(recipe.teacher)


def _with_teacher(
    recipe: Recipe, out: Path, task: Task, splits: Splits, stages: Stages, handed: Handed, progress: Progress
) -> Ground:
    device = device_of(recipe.training.device)
    data = SourceFacts(
        role="data",
        name=recipe.data.source,
        revision=recipe.data.revision,
        hash=splits.hash,
        licence=recipe.data.licence,
    )
    spec = recipe.teacher
    if isinstance(spec, StoredTeacherSpec):
        return _with_stored(recipe, spec, out, task, splits, handed, device, [data])
    ready = ready_teacher(recipe, out, task, splits, stages, handed, device, progress)
    teacher = ready.teacher
    return Ground(
        recipe, out, device, task, splits, teacher.processor, teacher, ready.facts, [*ready.sources, data], handed,
        _objectives(recipe, handed),
        inside=teacher.inside, warnings=list(teacher.warnings),
        fitted=None if teacher.members else ready.fitted["teacher"], members_fitted=ready.fitted,
        routing=routing_of(spec) if isinstance(spec, EnsembleSpec) else None,
        targets=(spec.targets or SAMPLED) if isinstance(task, CausalLM) and signals_mode(recipe) == "store" else None,
    )  # fmt: skip


def _with_stored(
    recipe: Recipe, spec: StoredTeacherSpec, out: Path, task: Task, splits: Splits, handed: Handed, device: str,
    sources: list[SourceFacts],
) -> Ground:  # fmt: skip
    language = isinstance(task, CausalLM)
    if language:
        store = open_store(Path(spec.path).expanduser(), TokenStore)
    else:
        store = open_stored(spec, task, Wanted(logits=True))
    about: dict[str, Any] = store.manifest.about
    teacher = find_rescorer(spec, store, task)
    if teacher is None and language:
        raise StoreError(f"{store.path}: {NEEDS_TEACHER}")
    processor = teacher.processor if teacher is not None else stored_processor(store, task)
    source = SourceFacts.model_validate(about["source"])
    return Ground(
        recipe, out, device, task, splits, processor, teacher, ModelFacts.model_validate(about["facts"]),
        [source, *sources], handed, _objectives(recipe, handed),
        inside=Inside({int(layer): width for layer, width in about["widths"].items()}),
        store=store if isinstance(store, TokenStore) else None,
        targets=targets_of_store(store) if isinstance(store, TokenStore) else None,
    )  # fmt: skip


def _about(ground: Ground) -> dict[str, Any]:
    """For people, and for whoever opens the store without the teacher."""
    folder = None if ground.teacher is None else ground.teacher.folder
    return {
        "name": ground.sources[0].name,
        "licence": ground.sources[0].licence,
        "source": ground.sources[0].model_dump(mode="json"),
        "facts": ground.teacher_facts.model_dump(mode="json"),
        "widths": {str(layer): width for layer, width in ground.inside.widths.items()},
        "folder": None if folder is None else str(folder.resolve()),
    }


def _student_source(ground: Ground, policy: PolicyFacts) -> list[SourceFacts]:
    """The model that the student starts from, where that is another than the teacher."""
    if ground.handed.student is not None:
        return [SourceFacts(role="student", name="python object", hash=ground.start[0])]
    spec = ground.recipe.student
    if not isinstance(spec, PretrainedSpec):
        return []
    found = find_model(spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code).source
    return [found.model_copy(update={"role": "student", "licence": policy.start.licence if policy.start else None})]


def _opened(ground: Ground, spec: StoredTeacherSpec, wanted: Wanted) -> Store:
    """A store that was made before, checked against the recipe and, where the teacher is there, against its answers."""
    store = open_stored(spec, ground.task, wanted)
    if ground.teacher is not None:
        ground.spot_check = spot_check(store, ground.teacher, ground.task, ground.splits.train, n=spec.spot_check)
    return store


def _objectives(recipe: Recipe, handed: Handed) -> Sequence[Objective]:
    """Those that were handed over, or else the recipe's; the plan has seen to it that none of these is a function."""
    return handed.objectives or [spec for spec in recipe.objectives if not isinstance(spec, PythonSpec)]


def _judge(ground: Ground, say: Say) -> None:
    """Say loudly what is wrong with the teacher, before training."""
    encoded = ground.task.encode(ground.splits.validation, ground.processor)
    logits = ground.teacher_logits(ground.splits.validation)
    ground.warnings += preflight(logits, encoded, ground.processor, ground.task)
    for warning in ground.warnings:
        say(f"WARNING: {warning}")
