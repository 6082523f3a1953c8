"""Certifying: what all seeds found is measured, compared with the budget and put into one record, `run.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from attar.account import energy_of
from attar.bench.flops import count_flops
from attar.bench.measure import Latencies, latency, median_row
from attar.bench.process import Subject
from attar.bench.size import count_params, weight_bytes
from attar.bench_sides import file_subject
from attar.facts import (
    ArtifactFacts,
    BudgetFacts,
    EvaluationFacts,
    Interval,
    Measurement,
    ModelFacts,
    PolicyFacts,
    QualityFacts,
    RunFacts,
    SeedFacts,
    SpentFacts,
)
from attar.governance.lineage import collect
from attar.governance.portable import portable_record
from attar.ground import Ground
from attar.handover import student_files
from attar.judges import Judge, Told
from attar.recipe.outcome import BudgetSpec, Limit
from attar.seeds import Seed
from attar.stages import Stages
from attar.teachers.fitted import TEACHER

_OFF = "latency: not measured, report.latency is off"


class Costs(BaseModel):
    """What the `measure` stage found, by model: latency, operations, and why something is absent."""

    latency: dict[str, Measurement]
    taken: dict[str, list[SpentFacts]] = {}
    """Of one row, in each of the interleaved repeats."""
    flops: dict[str, int]
    notes: dict[str, str]


def certify(
    ground: Ground, judge: Judge, seeds: Sequence[Seed], chosen: Seed, stages: Stages, policy: PolicyFacts
) -> RunFacts:
    """The record of the whole run; `chosen` is the seed whose files are handed over."""
    found = _evaluate(judge, seeds)
    models = _models(ground, chosen)
    shaped_by = [
        stages.key_of(f"{chosen.seed}/answers"),
        [a.sha256 for a in chosen.artifacts],
        [ground.signals_key, ground.recipe.report.latency, "energy"],
    ]
    costs = stages.run("measure", shaped_by, [], Costs, lambda: _measure(ground, chosen))
    models = {name: _with_costs(model, name, costs) for name, model in models.items()}
    artifacts = [_artifact_with_costs(a, costs) for a in chosen.artifacts]
    budget = check_budget(ground.recipe.budget, models["teacher"], models["student"], artifacts, found.retention)
    refused = [one for seed in seeds for one in seed.refused]
    missed = any(line.met is False for line in budget)
    facts = RunFacts(
        name=ground.recipe.name,
        status="budget_missed" if missed else "complete",
        recipe=ground.recipe.model_dump(mode="json"),
        task=ground.recipe.task.kind,
        data=ground.splits.facts.model_copy(update={"truncated": ground.truncated}),
        teacher=models["teacher"],
        student=models["student"],
        control=models.get("control"),
        quality=_with_members(found.quality, ground),
        retention=found.retention,
        kd_gain=found.kd_gain,
        evaluation=found,
        training={str(role): facts for role, facts in chosen.training.items()},
        artifacts=artifacts,
        refused=refused,
        files=student_files(chosen.folder),
        budget=budget,
        policy=policy,
        lineage=collect(ground.recipe, ground.sources),
        stages=stages.done,
        signals=ground.signals,
        energy=energy_of(ground, stages, costs.taken),
        seeds=[_seed_facts(ground, judge, seed) for seed in seeds] if len(seeds) > 1 else [],
        warnings=[*ground.warnings, *(one.reason for one in refused)],
    )
    return portable_record(facts, ground.out)


def check_budget(
    budget: BudgetSpec,
    teacher: ModelFacts,
    student: ModelFacts,
    artifacts: Sequence[ArtifactFacts],
    retention: Interval | None,
) -> list[BudgetFacts]:
    """Every line of the budget against what was measured; shares are of the teacher."""
    lines: list[BudgetFacts] = []

    def line(name: str, limit: float, value: float | None, unit: str, *, least: bool = False) -> None:
        met = None if value is None else (value >= limit if least else value <= limit)
        note = "not measured" if value is None else None
        lines.append(BudgetFacts(name=name, limit=limit, value=value, unit=unit, met=met, note=note))

    if budget.max_params is not None:
        line("max_params", _absolute(budget.max_params, teacher.params), student.params, "parameters")
    if budget.max_bytes is not None:
        smallest = min((a.bytes for a in artifacts), default=student.bytes)
        line("max_bytes", _absolute(budget.max_bytes, teacher.bytes), smallest, "bytes")
    if budget.max_latency_ms is not None:
        fastest = min((a.latency_ms for a in artifacts if a.latency_ms is not None), default=None)
        line("max_latency_ms", budget.max_latency_ms, fastest, "ms")
    if budget.min_retention is not None:
        value = None if retention is None else retention.value
        line("min_retention", budget.min_retention, value, "of the teacher's metric", least=True)
    return lines


def _absolute(limit: Limit, whole: int) -> float:
    return float(limit) if isinstance(limit, int) else float(limit.rstrip("% ")) / 100 * whole


def _evaluate(judge: Judge, seeds: Sequence[Seed]) -> EvaluationFacts:
    return judge.evaluate([Told(seed.validation, seed.test, seed.temperature) for seed in seeds])


def _models(ground: Ground, chosen: Seed) -> dict[str, ModelFacts]:
    models = {"teacher": ground.teacher_facts}
    for role in chosen.training:
        model, _ = ground.load(chosen.folder / role)
        family = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
        models[role] = ModelFacts(
            name=f"{ground.recipe.name} {role}", family=family, params=count_params(model), bytes=weight_bytes(model)
        )
    return models


def _measure(ground: Ground, chosen: Seed) -> Costs:
    """Latency of all models, interleaved in one go, and the operations of one row of median length."""
    task = ground.task
    subjects: dict[str, Subject] = {}
    costs = Costs(latency={}, flops={}, notes={})
    teacher = ground.teacher
    if teacher is not None:
        counted = [
            count_flops(one.model.to("cpu"), task.batch(*_one_row(ground, one.processor), one.processor))
            for one in teacher.alone.values()
        ]
        values = [one.value for one in counted]
        total = None if None in values or ground.routing is not None else sum(value or 0 for value in values)
        told = [one.note for one in counted if one.note is not None]
        _note(costs, "teacher", total, "; ".join(dict.fromkeys([*told, *_several(ground)])) or None)
        subjects |= _teacher_subject(ground, _arrays(task.batch(*_one_row(ground, ground.processor), ground.processor)))
    for role in chosen.training:
        place = chosen.folder / role
        model, processor = ground.load(place)
        batch = task.batch(*_one_row(ground, processor), processor)
        flops = count_flops(model, batch)
        _note(costs, role, flops.value, flops.note)
        if (place / "config.json").is_file():
            subjects[role] = Subject("folder", _arrays(batch), place, task.spec, task.labels)
        if role == "student":
            for artifact in (one for one in chosen.artifacts if one.kind != "gguf"):
                subjects[_key(artifact)] = file_subject(task, artifact, ground.out / artifact.path, _arrays(batch))
    found = latency(subjects) if ground.recipe.report.latency else Latencies(reasons=dict.fromkeys(subjects, _OFF))
    costs.latency.update(found.measured)
    costs.taken.update(found.taken)
    for name, reason in found.reasons.items():
        costs.notes[name] = f"{costs.notes[name]}; {reason}" if name in costs.notes else reason
    return costs


def _with_members(quality: QualityFacts, ground: Ground) -> QualityFacts:
    alone = {f"teacher/{name}": value for name, value in ground.members_quality.items()}
    return quality.model_copy(update={"validation": {**quality.validation, **alone}}) if alone else quality


def _several(ground: Ground) -> list[str]:
    """What is not measured of several teachers."""
    if ground.teacher is None or not ground.teacher.members:
        return []
    routed = ", nor operations, as each row has one of them" if ground.routing is not None else ""
    alone = [f"{name} {value:.3f}" for name, value in ground.members_quality.items()]
    told = [f"each alone, {ground.task.metric} on its rows of validation: {', '.join(alone)}"] if alone else []
    return [*told, f"latency: not measured, {len(ground.teacher.members)} teachers are no one model{routed}"]


def _one_row(ground: Ground, processor: Any) -> tuple[Any, list[int]]:
    encoded = ground.task.encode(ground.splits.validation, processor)
    return encoded, [median_row(encoded)]


def _teacher_subject(ground: Ground, inputs: dict[str, np.ndarray]) -> dict[str, Subject]:
    """How another process loads the teacher; empty for a module that only lives in this one."""
    teacher, task = ground.teacher, ground.task
    if teacher is None or teacher.folder is None:
        return {}
    if (teacher.folder / TEACHER).is_file():
        return {"teacher": Subject("fitted", inputs, teacher.folder, task.spec, task.labels)}
    spec = ground.recipe.teacher
    if spec.kind != "local":
        return {}
    return {"teacher": Subject("local", inputs, task=task.spec, labels=task.labels, teacher=spec)}


def _arrays(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in batch.items()}


def _note(costs: Costs, name: str, flops: int | None, note: str | None) -> None:
    if flops is not None:
        costs.flops[name] = flops
    if note is not None:
        costs.notes[name] = note


def _key(artifact: ArtifactFacts) -> str:
    return f"{artifact.kind}-{artifact.precision}"


def _with_costs(model: ModelFacts, name: str, costs: Costs) -> ModelFacts:
    absent = None if name in costs.latency else "latency: not measured, the model lives in the calling process alone"
    update = {
        "latency": costs.latency.get(name),
        "flops": costs.flops.get(name),
        "note": costs.notes.get(name, absent),
    }
    return model.model_copy(update=update)


def _artifact_with_costs(artifact: ArtifactFacts, costs: Costs) -> ArtifactFacts:
    measured = costs.latency.get(_key(artifact))
    return artifact.model_copy(update={"latency": measured, "latency_ms": None if measured is None else measured.value})


def _seed_facts(ground: Ground, judge: Judge, seed: Seed) -> SeedFacts:
    one = _evaluate(judge, [seed])
    return SeedFacts(
        seed=seed.seed,
        path=seed.folder.relative_to(ground.out).as_posix(),
        student=one.quality.student,
        control=one.quality.control,
        retention=None if one.retention is None else one.retention.value,
        agreement=None if one.agreement is None else one.agreement.value,
        validation=one.quality.validation.get("student"),
        artifacts={_key(a): a.quality for a in seed.artifacts if a.quality is not None},
    )
