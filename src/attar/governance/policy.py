"""May this teacher be distilled? Pure: the recipe and the table decide, and what people recorded in the recipe.

The strictest row of the table that speaks for the teacher gives the verdict. `allow` and `conditional` go on, the
latter under the printed notices; `ask` and `block` stop until the recipe records a decision. No legal advice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, assert_never

from attar.errors import PolicyError
from attar.facts import PolicyFacts, StartFacts
from attar.governance.origin import start_origin, teacher_origin
from attar.governance.table import OWN_MODEL, UNKNOWN, Row, StudentKind, normal_licence, row, rows, severity, strictest
from attar.recipe import Recipe
from attar.recipe.nearest import did_you_mean, listed
from attar.recipe.student import PretrainedSpec
from attar.recipe.task import CausalLMSpec, ImageClassificationSpec, TextClassificationSpec
from attar.recipe.teacher import EnsembleSpec, LocalTeacherSpec, StoredTeacherSpec

_GOES_ON = ("allow", "conditional")
BUILT_HERE = "config"
"""Name of a teacher that was built from `teacher.config`, also in a store's manifest."""


def decide_for(recipe: Recipe, *, fetch: bool = False) -> PolicyFacts:
    """`decide` with names and licences found on this disk; `fetch` also asks the Hub for model cards.

    Raises as `decide`, and TeacherError or StoreError where a model is not there.
    """
    start = start_origin(recipe.student, fetch=fetch)
    if not isinstance(recipe.teacher, EnsembleSpec):
        name, licence = teacher_origin(recipe.teacher, fetch=fetch)
        return decide(recipe, teacher_name=name, teacher_licence=licence, start=start)
    members = {name: teacher_origin(recipe.teacher.alone(name), fetch=fetch) for name in recipe.teacher.members}
    return decide_among(recipe, members, start=start)


def decide(
    recipe: Recipe, *, teacher_name: str, teacher_licence: str | None, start: tuple[str, str | None] | None = None
) -> PolicyFacts:
    """What the table and the recipe say of distilling this teacher, into a student that starts from `start`.

    `start`: name and licence of the model that a pretrained student continues; it is judged by the same table.
    `teacher_name`: Hub name, the recipe's name of the model, or "python object". `teacher_licence`: what was found with
    the model; `teacher.licence` of the recipe goes before it. Raises PolicyError where the recipe's record is unusable:
    `decision: allow` without a reason, an unknown row, or a student licence that the teacher's terms do not admit.
    """
    assert not isinstance(recipe.teacher, EnsembleSpec), "several teachers are judged each"
    return _decided(recipe, [_terms(recipe, recipe.teacher, teacher_name, teacher_licence)], start)


def decide_among(
    recipe: Recipe, members: Mapping[str, tuple[str, str | None]], *, start: tuple[str, str | None] | None = None
) -> PolicyFacts:
    """`decide` for several teachers, `members` by the recipe's name: the strictest terms count, and all that any of
    them asks of the student passes on. A row that the recipe names (`policy.teacher`) speaks for each of them.
    """
    spec = recipe.teacher
    assert isinstance(spec, EnsembleSpec), "one teacher is judged by itself"
    judged = [_terms(recipe, spec.alone(name), *origin) for name, origin in members.items()]
    facts = _decided(recipe, judged, start)
    each = [_told_terms(one.name, one.licence, one.row, _student_kind(recipe)) for one in judged]
    return facts.model_copy(update={"members": each})


class _Terms(NamedTuple):
    """A model and the row that decides for it."""

    name: str
    licence: str | None
    row: Row
    said: str = "it learns from"
    """What the student has to do with it."""

    @property
    def passed(self) -> str | None:
        """The licence that it gives to what is made from it."""
        implied = self.row.licence_of(self.name)
        own = self.licence if self.licence in self.row.licences or implied is None else implied
        return own if self.row.passes_on.student_licence == "teacher" else self.row.passes_on.student_licence


def _terms(recipe: Recipe, spec: LocalTeacherSpec | StoredTeacherSpec, name: str, stated: str | None) -> _Terms:
    licence = normal_licence(spec.licence) or normal_licence(stated)
    if _built_here(spec, name):
        return _Terms(name, licence, row(OWN_MODEL))
    return _Terms(name, licence, strictest(name, licence, _student_kind(recipe), _named_row(recipe.policy.teacher)))


def _decided(recipe: Recipe, teachers: list[_Terms], start: tuple[str, str | None] | None) -> PolicyFacts:
    policy, kind = recipe.policy, _student_kind(recipe)
    found = max(teachers, key=lambda one: severity(one.row, kind))
    names = " + ".join(dict.fromkeys(one.name for one in teachers))
    verdict = found.row.verdict_for(kind)
    begun = None if start is None else _start(recipe, start, kind)
    every = [
        *teachers,
        *([] if begun is None else [_Terms(begun.name, begun.licence, row(begun.rule), "it starts from")]),
    ]
    allowed = all(one.row.verdict_for(kind) in _GOES_ON for one in every)
    overridden = policy.decision == "allow"
    if overridden and not (policy.reason or "").strip():
        raise PolicyError(
            "policy.reason: `policy.decision: allow` needs a reason; it is printed in run.json and on the model card. "
            f"Record why you may distil {names} (a contract, a permission, your own model), and who decided."
        )
    # A recorded permission lifts what the table forbids; what travels with the model travels all the same.
    terms = [one.row.passes_on for one in every]
    return PolicyFacts(
        teacher=names,
        licence=found.licence,
        rule=found.row.id,
        verdict=verdict,
        decision="allow" if overridden or allowed else "stop",
        reason=(policy.reason or "").strip() if overridden else found.row.text,
        source=f"recorded in the recipe; the table's source: {found.row.source}" if overridden else found.row.source,
        date=found.row.date,
        decided_by=policy.decided_by if overridden else None,
        start=begun,
        student_name_prefix=next((one.student_name_prefix for one in terms if one.student_name_prefix), None),
        student_licence=_student_licence(recipe, every, overridden),
        distribute=overridden or all(one.distribute for one in terms),
        notices=list(dict.fromkeys(n for one in terms for n in one.notices if one.distribute or not overridden)),
    )


def _start(recipe: Recipe, start: tuple[str, str | None], kind: StudentKind) -> StartFacts:
    """What the table says of the model that a pretrained student starts from."""
    name, found = start
    licence = normal_licence(recipe.student.licence if isinstance(recipe.student, PretrainedSpec) else None)
    licence = licence or normal_licence(found)
    return _told_terms(name, licence, strictest(name, licence, kind), kind)


def _told_terms(name: str, licence: str | None, terms: Row, kind: StudentKind) -> StartFacts:
    return StartFacts(
        name=name, licence=licence or terms.licence_of(name), rule=terms.id, verdict=terms.verdict_for(kind),
        reason=terms.text, source=terms.source, date=terms.date,
    )  # fmt: skip


def require_allowed(facts: PolicyFacts) -> None:
    """Go on, or raise PolicyError that says what to record in the recipe."""
    if facts.decision == "allow":
        return
    ways: list[str] = []
    told: list[str] = []
    place = (
        "      teacher:\n        licence"
        if not facts.members
        else "      teacher:\n        members:\n          NAME:\n            licence"
    )
    for name, terms in [(one.name, one) for one in facts.members] or [(facts.teacher, facts)]:
        if terms.verdict in _GOES_ON:
            continue
        told.append(_told("Teacher", name, terms))
        if terms.verdict == "ask" and terms.licence is None:
            ways.append(f"if you know its licence:\n{place}: apache-2.0    # an SPDX or Hub id")
        if terms.verdict == "ask" and terms.rule == UNKNOWN:
            ways.append(f"if you trained it yourself:\n      policy:\n        teacher: {OWN_MODEL}")
    ways = list(dict.fromkeys(ways))
    if facts.start is not None and facts.start.verdict not in _GOES_ON:
        told.append(_told("The student starts from", facts.start.name, facts.start))
        if facts.start.verdict == "ask" and facts.start.licence is None:
            ways.append(
                "if you know the licence of the student's start:\n      student:\n        licence: apache-2.0    # an "
                "SPDX or Hub id"
            )
    ways.append(
        "if you may distil it for another reason:\n      policy:\n        decision: allow\n"
        "        reason: why you may (a contract, a permission)\n        decided_by: who decided"
    )
    raise PolicyError(
        "policy: the run stops before any work. "
        + "\n".join(told)
        + "\n  Record in the recipe, "
        + "\n  or ".join(ways)
        + f"\n  The record goes into run.json and the model card. {facts.disclaimer}"
    )


def _told(who: str, name: str, terms: PolicyFacts | StartFacts) -> str:
    licence = f"licence {terms.licence}" if terms.licence else "licence unknown"
    verb = "blocks" if terms.verdict == "block" else "asks"
    return (
        f'{who} "{name}" ({licence}): row "{terms.rule}" {verb}.\n'
        f"  {terms.reason} (source: {terms.source}; read {terms.date})"
    )


def _student_kind(recipe: Recipe) -> StudentKind:
    match recipe.task:
        case TextClassificationSpec() | ImageClassificationSpec():
            return "classifier"
        case CausalLMSpec():
            return "language_model"
    assert_never(recipe.task)


def _built_here(spec: LocalTeacherSpec | StoredTeacherSpec, teacher_name: str) -> bool:
    match spec:
        case LocalTeacherSpec():
            return spec.config is not None
        case StoredTeacherSpec():
            return teacher_name == BUILT_HERE
    assert_never(spec)


def _named_row(identity: str | None) -> Row | None:
    """The row that the recipe names, if it does. Raises PolicyError."""
    if identity is None:
        return None
    known = [r.id for r in rows()]
    if identity not in known:
        raise PolicyError(
            f'policy.teacher: "{identity}" is not a row of the policy table.{did_you_mean(identity, known)} '
            f"Rows: {listed(known)}."
        )
    return row(identity)


def _student_licence(recipe: Recipe, every: Sequence[_Terms], overridden: bool) -> str | None:
    """The student's licence: the recorded one, else what passes on: what binds before what does not, else in order.

    Raises PolicyError where terms bind another.
    """
    bound = [one for one in every if one.row.passes_on.binds]
    other = next((one for one in bound if one.passed != bound[0].passed), None)
    if other is not None and not overridden:
        first = bound[0]
        raise PolicyError(
            f'policy: row "{first.row.id}" gives the student the licence "{first.passed}", row "{other.row.id}" '
            f'({other.said} {other.name}) "{other.passed}"; it can have only one. '
            f"{'Start from another model' if other.said == 'it starts from' else 'Leave one of them out'}, or record "
            "`policy.decision: allow` with the reason why you may."
        )
    by = next((one for one in [*bound, *every] if one.passed is not None), every[0])
    chosen = recipe.policy.student_licence
    if chosen is None:
        return by.passed
    if by.row.passes_on.binds and not overridden and normal_licence(chosen) != by.passed:
        raise PolicyError(
            f'policy.student_licence: "{chosen}" does not fit row "{by.row.id}": {by.row.text} Remove it (the student '
            f'gets "{by.passed}"), or record `policy.decision: allow` with the reason why you may give another licence.'
        )
    return chosen
