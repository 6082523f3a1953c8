"""May this teacher be distilled? Pure: the recipe and the table decide, and what people recorded in the recipe.

The strictest row of the table that speaks for the teacher gives the verdict. `allow` and `conditional` go on, the
latter under the printed notices; `ask` and `block` stop until the recipe records a decision. No legal advice.
"""

from __future__ import annotations

from typing import assert_never

from attar.errors import PolicyError
from attar.facts import PolicyFacts
from attar.governance.origin import teacher_origin
from attar.governance.table import OWN_MODEL, UNKNOWN, Row, StudentKind, normal_licence, row, rows, strictest
from attar.recipe import Recipe
from attar.recipe.nearest import did_you_mean, listed
from attar.recipe.task import ImageClassificationSpec, TextClassificationSpec
from attar.recipe.teacher import LocalTeacherSpec, StoredTeacherSpec

BUILT_HERE = "config"
"""Name of a teacher that was built from `teacher.config`, also in a store's manifest."""


def decide_for(recipe: Recipe, *, fetch: bool = False) -> PolicyFacts:
    """`decide` with the teacher's name and licence found on this disk; `fetch` also asks the Hub for the model card.

    Raises as `decide`, and TeacherError or StoreError where the teacher is not there.
    """
    name, licence = teacher_origin(recipe.teacher, fetch=fetch)
    return decide(recipe, teacher_name=name, teacher_licence=licence)


def decide(recipe: Recipe, *, teacher_name: str, teacher_licence: str | None) -> PolicyFacts:
    """What the table and the recipe say of distilling this teacher.

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
        decision="allow" if overridden or verdict in ("allow", "conditional") else "stop",
        reason=(policy.reason or "").strip() if overridden else found.text,
        source=f"recorded in the recipe; the table's source: {found.source}" if overridden else found.source,
        date=found.date,
        decided_by=policy.decided_by if overridden else None,
        student_name_prefix=found.passes_on.student_name_prefix,
        student_licence=_student_licence(recipe, found, teacher_name, licence, overridden),
        distribute=found.passes_on.distribute or overridden,
        notices=[] if overridden and not found.passes_on.distribute else list(found.passes_on.notices),
    )


def require_allowed(facts: PolicyFacts) -> None:
    """Go on, or raise PolicyError that says what to record in the recipe."""
    if facts.decision == "allow":
        return
    ways: list[str] = []
    if facts.verdict == "ask":
        if facts.licence is None:
            ways.append("if you know its licence:\n      teacher:\n        licence: apache-2.0    # an SPDX or Hub id")
        if facts.rule == UNKNOWN:
            ways.append(f"if you trained it yourself:\n      policy:\n        teacher: {OWN_MODEL}")
    ways.append(
        "if you may distil it for another reason:\n      policy:\n        decision: allow\n"
        "        reason: why you may (a contract, a permission)\n        decided_by: who decided"
    )
    licence = f"licence {facts.licence}" if facts.licence else "licence unknown"
    verb = "blocks" if facts.verdict == "block" else "asks"
    raise PolicyError(
        f'policy: the run stops before any work. Teacher "{facts.teacher}" ({licence}): row "{facts.rule}" {verb}.\n'
        f"  {facts.reason} (source: {facts.source}; read {facts.date})\n"
        "  Record in the recipe, "
        + "\n  or ".join(ways)
        + f"\n  The record goes into run.json and the model card. {facts.disclaimer}"
    )


def _student_kind(recipe: Recipe) -> StudentKind:
    match recipe.task:
        case TextClassificationSpec() | ImageClassificationSpec():
            return "classifier"
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


def _student_licence(recipe: Recipe, found: Row, name: str, licence: str | None, overridden: bool) -> str | None:
    """The student's licence: the recorded one, else what passes on. Raises PolicyError where the terms bind another."""
    passes = found.passes_on
    implied = found.licence_of(name)
    teachers = licence if licence in found.licences or implied is None else implied
    passed = teachers if passes.student_licence == "teacher" else passes.student_licence
    chosen = recipe.policy.student_licence
    if chosen is None:
        return passed
    if passes.binds and not overridden and normal_licence(chosen) != passed:
        raise PolicyError(
            f'policy.student_licence: "{chosen}" does not fit row "{found.id}": {found.text} Remove it (the student '
            f'gets "{passed}"), or record `policy.decision: allow` with the reason why you may give another licence.'
        )
    return chosen
