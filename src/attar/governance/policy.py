"""May this teacher be distilled? Pure: the recipe and the table decide, and what people recorded in the recipe.

The strictest row of the table that speaks for the teacher gives the verdict. `allow` and `conditional` go on, the
latter under the printed notices; `ask` and `block` stop until the recipe records a decision. No legal advice.
"""

from __future__ import annotations

from typing import assert_never

from attar.errors import PolicyError
from attar.facts import PolicyFacts, StartFacts
from attar.governance.origin import start_origin, teacher_origin
from attar.governance.table import OWN_MODEL, UNKNOWN, Row, StudentKind, normal_licence, row, rows, strictest
from attar.recipe import Recipe
from attar.recipe.nearest import did_you_mean, listed
from attar.recipe.student import PretrainedSpec
from attar.recipe.task import CausalLMSpec, ImageClassificationSpec, TextClassificationSpec
from attar.recipe.teacher import LocalTeacherSpec, StoredTeacherSpec

_GOES_ON = ("allow", "conditional")
BUILT_HERE = "config"
"""Name of a teacher that was built from `teacher.config`, also in a store's manifest."""


def decide_for(recipe: Recipe, *, fetch: bool = False) -> PolicyFacts:
    """`decide` with names and licences found on this disk; `fetch` also asks the Hub for model cards.

    Raises as `decide`, and TeacherError or StoreError where a model is not there.
    """
    name, licence = teacher_origin(recipe.teacher, fetch=fetch)
    return decide(recipe, teacher_name=name, teacher_licence=licence, start=start_origin(recipe.student, fetch=fetch))


def decide(
    recipe: Recipe, *, teacher_name: str, teacher_licence: str | None, start: tuple[str, str | None] | None = None
) -> PolicyFacts:
    """What the table and the recipe say of distilling this teacher, into a student that starts from `start`.

    `start`: name and licence of the model that a pretrained student continues; it is judged by the same table.
    `teacher_name`: Hub name, the recipe's name of the model, or "python object". `teacher_licence`: what was found with
    the model; `teacher.licence` of the recipe goes before it. Raises PolicyError where the recipe's record is unusable:
    `decision: allow` without a reason, an unknown row, or a student licence that the teacher's terms do not admit.
    """
    policy = recipe.policy
    licence = normal_licence(recipe.teacher.licence) or normal_licence(teacher_licence)
    kind = _student_kind(recipe)
    if _built_here(recipe, teacher_name):
        found = row(OWN_MODEL)
    else:
        found = strictest(teacher_name, licence, kind, _named_row(recipe.policy.teacher))
    verdict = found.verdict_for(kind)
    begun = None if start is None else _start(recipe, start, kind)
    terms = [found] if begun is None else [found, row(begun.rule)]
    allowed = all(one in _GOES_ON for one in (verdict, *([begun.verdict] if begun else [])))
    overridden = policy.decision == "allow"
    if overridden and not (policy.reason or "").strip():
        raise PolicyError(
            "policy.reason: `policy.decision: allow` needs a reason; it is printed in run.json and on the model card. "
            f"Record why you may distil {teacher_name} (a contract, a permission, your own model), and who decided."
        )
    # A recorded permission lifts what the table forbids; what travels with the model travels all the same.
    return PolicyFacts(
        teacher=teacher_name,
        licence=licence,
        rule=found.id,
        verdict=verdict,
        decision="allow" if overridden or allowed else "stop",
        reason=(policy.reason or "").strip() if overridden else found.text,
        source=f"recorded in the recipe; the table's source: {found.source}" if overridden else found.source,
        date=found.date,
        decided_by=policy.decided_by if overridden else None,
        start=begun,
        student_name_prefix=next(
            (t.passes_on.student_name_prefix for t in terms if t.passes_on.student_name_prefix), None
        ),
        student_licence=_student_licence(recipe, found, teacher_name, licence, begun, overridden),
        distribute=overridden or all(t.passes_on.distribute for t in terms),
        notices=list(
            dict.fromkeys(n for t in terms for n in t.passes_on.notices if t.passes_on.distribute or not overridden)
        ),
    )


def _start(recipe: Recipe, start: tuple[str, str | None], kind: StudentKind) -> StartFacts:
    """What the table says of the model that a pretrained student starts from."""
    name, found = start
    licence = normal_licence(recipe.student.licence if isinstance(recipe.student, PretrainedSpec) else None)
    licence = licence or normal_licence(found)
    terms = strictest(name, licence, kind)
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
    if facts.verdict not in _GOES_ON:
        told.append(_told("Teacher", facts.teacher, facts))
        if facts.verdict == "ask" and facts.licence is None:
            ways.append("if you know its licence:\n      teacher:\n        licence: apache-2.0    # an SPDX or Hub id")
        if facts.verdict == "ask" and facts.rule == UNKNOWN:
            ways.append(f"if you trained it yourself:\n      policy:\n        teacher: {OWN_MODEL}")
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


def _built_here(recipe: Recipe, teacher_name: str) -> bool:
    match recipe.teacher:
        case LocalTeacherSpec():
            return recipe.teacher.config is not None
        case StoredTeacherSpec():
            return teacher_name == BUILT_HERE
    assert_never(recipe.teacher)


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


def _student_licence(
    recipe: Recipe, found: Row, name: str, licence: str | None, start: StartFacts | None, overridden: bool
) -> str | None:
    """The student's licence: the recorded one, else what passes on. Raises PolicyError where terms bind another."""
    passed, by = _passed(found, name, licence), found
    if start is not None:
        begun = row(start.rule)
        own = _passed(begun, start.name, start.licence)
        if begun.passes_on.binds and found.passes_on.binds and own != passed and not overridden:
            raise PolicyError(
                f'policy: row "{found.id}" gives the student the licence "{passed}", row "{begun.id}" (it starts from '
                f'{start.name}) "{own}"; it can have only one. Start from another model, or record '
                "`policy.decision: allow` with the reason why you may."
            )
        if passed is None or (begun.passes_on.binds and not found.passes_on.binds):
            passed, by = own, begun
    chosen = recipe.policy.student_licence
    if chosen is None:
        return passed
    if by.passes_on.binds and not overridden and normal_licence(chosen) != passed:
        raise PolicyError(
            f'policy.student_licence: "{chosen}" does not fit row "{by.id}": {by.text} Remove it (the student '
            f'gets "{passed}"), or record `policy.decision: allow` with the reason why you may give another licence.'
        )
    return chosen


def _passed(terms: Row, name: str, licence: str | None) -> str | None:
    """The licence that a row's terms give to what is made from the model of this name and licence."""
    implied = terms.licence_of(name)
    own = licence if licence in terms.licences or implied is None else implied
    return own if terms.passes_on.student_licence == "teacher" else terms.passes_on.student_licence
