"""The account of a run: what distilling took, part by part, what an inference takes, and when that pays for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attar.bench.energy import Amount, break_even, carbon_of, joules_of, plus, summed
from attar.bench.interleave import ratio
from attar.facts import EnergyFacts, RunFacts, SpentFacts, StageFacts
from attar.facts.energy import TOTAL
from attar.ground import Ground
from attar.plan.objectives import signals_mode
from attar.recipe.energy import WATTS, WATTS_SOURCE, EnergySpec
from attar.stages import Stages

_EARLIER = "attempts that were not used"
_PARTS = {
    "data": "preparing",
    "layers": "preparing",
    "teacher": "teacher fitting",
    "signals": "labelling",
    "answered": "labelling",
    "student": "training",
    "control": "control",
    "control_random": "control",
    "answers": "evaluation",
    "measure": "measuring",
}
"""By the last part of a stage's name; all other stages are exports."""
_THOUSAND = 1000
_LEAST = 1e-12


def energy_of(ground: Ground, stages: Stages, taken: Mapping[str, Sequence[SpentFacts]]) -> EnergyFacts:
    """The energy of a finished run. `taken`: time and counters of one row, by model, in interleaved repeats."""
    spec = ground.recipe.report.energy
    parts = spent_by_part(stages.done, stages.costs.of_others([stage.name for stage in stages.done]))
    notes = [*_not_counted(ground, stages.done, parts.values()), *_not_measured(ground, taken)]
    return energy_facts(parts, taken, spec, notes, whole=all(stage.spent is not None for stage in stages.done))


def energy_facts(
    parts: Mapping[str, SpentFacts],
    taken: Mapping[str, Sequence[SpentFacts]],
    spec: EnergySpec,
    notes: Sequence[str] = (),
    *,
    whole: bool = True,
) -> EnergyFacts:
    """The record of what distilling took by part, and of what one row takes by model.

    `whole`: every stage counted; else there is no break-even, which would be too low.
    """
    watts = spec.watts_per_core
    told = {name: joules_of([spent], watts) for name, spent in parts.items()}
    distilling = {**told, TOTAL: summed(list(told.values()))} if told else {}
    inference = {name: joules_of(repeats, watts, _THOUSAND) for name, repeats in taken.items()}
    amounts = {name: [Amount.of(one) for one in repeats] for name, repeats in taken.items()}
    teacher = amounts.pop("teacher", [])
    students = {name: own for name, own in amounts.items() if teacher and not name.startswith("control")}
    if not whole or any(one.unread for one in parts.values()):
        students = {}
    distilled = sum((Amount.of(one) for one in parts.values()), Amount())
    carbon = spec.carbon
    return EnergyFacts(
        watts_per_core=watts,
        watts_source=WATTS_SOURCE if watts == WATTS else "stated in the recipe",
        distilling=distilling,
        inference=inference,
        ratio={name: ratio(levels(own), levels(teacher)) for name, own in amounts.items() if teacher},
        break_even={
            name: break_even(distilled, teacher, own, watts=watts, instead_of="teacher", by=name)
            for name, own in students.items()
        },
        carbon=None if carbon is None or not told else carbon_of(distilling[TOTAL], inference, **carbon.model_dump()),
        notes=list(notes),
    )


def spent_by_part(stages: Iterable[StageFacts], others: SpentFacts | None) -> dict[str, SpentFacts]:
    """What each part took; `others`: attempts of stages that are not among these."""
    found: dict[str, SpentFacts] = {}
    earlier = others
    for stage in stages:
        name = part_of(stage.name)
        if stage.spent is not None:
            found[name] = plus(found[name], stage.spent) if name in found else stage.spent
        if stage.earlier is not None:
            earlier = stage.earlier if earlier is None else plus(earlier, stage.earlier)
    return found if earlier is None else {**found, _EARLIER: earlier}


def part_of(stage: str) -> str:
    """The part of the account that a stage belongs to, by its name; each of several teachers has one of its own."""
    first, _, last = stage.rpartition("/")
    return _PARTS["teacher"] if first == "teacher" else _PARTS.get(last, "exports")


def levels(repeats: Sequence[Amount]) -> list[float]:
    """What two models are compared by: joules where counters told them, else processor seconds. Never 0."""
    return [max(one.joules or one.cpu_seconds, _LEAST) for one in repeats]


def distilled(run: RunFacts) -> tuple[Amount | None, str | None]:
    """What distilling took, from the record of a finished run; or why that is not known."""
    energy = run.energy
    if energy is None or energy.total is None or any(stage.spent is None for stage in run.stages):
        return None, "not told: some stage was done by an attar that did not count"
    if any(one.spent is not None and one.spent.unread for one in run.stages):
        return None, "not told: the energy of the accelerator is not known"
    return Amount.between(energy.total.lo, energy.total.hi, energy.watts_per_core), None


def _not_counted(ground: Ground, stages: Sequence[StageFacts], parts: Iterable[SpentFacts]) -> list[str]:
    """What the sums of distilling lack."""
    notes, mode = list[str](), signals_mode(ground.recipe)
    absent = [stage.name for stage in stages if stage.spent is None]
    if absent:
        notes.append(
            f"not in the sums: {', '.join(absent)}, done by an attar that did not count; so there is no break-even"
        )
    if mode == "stored":
        notes.append("not in the sums: the fitting and labelling of the teacher, which were done elsewhere")
    elif mode == "live":
        notes.append("the teacher was asked in every step: most of its labelling is a part of training")
    if any(one.unread for one in parts):
        notes.append(
            f"the energy of the accelerator ({ground.device}) is not known, since it has no counter that could be "
            "read: the energies of distilling are too low, and there is no break-even"
        )
    return notes


def _not_measured(ground: Ground, taken: Mapping[str, Sequence[SpentFacts]]) -> list[str]:
    """Why there is no energy of an inference, or none to compare with."""
    if not ground.recipe.report.latency:
        return ["energy of inference: not measured, report.latency is off"]
    if "teacher" not in taken:
        return ["energy of the teacher's inference: not measured; see its note on latency"]
    return []
