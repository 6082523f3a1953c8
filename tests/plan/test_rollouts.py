"""What the plan says of rollouts: before any work, with the place and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from attar.errors import PlanError
from attar.plan.notes import Notes
from attar.plan.rollouts import check_rollouts
from attar.recipe.load import recipe_from
from attar.recipe.rollouts import RolloutsSpec
from plan.samples import recipe_data

VLLM = {"source": "vllm", "url": "http://localhost:8000", "model": "teacher"}
ALL = {"kind": "from_teacher", "layers": 2, "vocabulary": {"keep": "all"}}


def noted(tmp_path: Path, rollouts: dict[str, Any], **changes: Any) -> Notes:
    data = recipe_data(tmp_path) | {
        "task": {"kind": "causal_lm", "prompt": "question", "max_length": 200},
        "teacher": {"kind": "local", "model": str(tmp_path / "teacher"), "licence": "mit"},
        "objectives": [{"kind": "reverse_kl"}],
        "rollouts": {"fraction": 0.5, **rollouts},
    }
    recipe = recipe_from({**data, **changes})
    notes = Notes(recipe.places)
    check_rollouts(recipe, notes)
    return notes


def problem_of(tmp_path: Path, rollouts: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(PlanError) as caught:
        noted(tmp_path, rollouts, **changes).finish()
    (found,) = caught.value.problems
    return found


@pytest.mark.parametrize(
    ("rollouts", "changes", "told"),
    [
        ({}, {"task": {"kind": "text_classification"}}, "rollouts: answers are written by language models, but task."),
        ({}, {"task": {"kind": "causal_lm"}}, "plain texts hold no prompts that could be answered. Set task.prompt"),
        ({}, {"task": {"kind": "causal_lm", "prompt": "q", "learn": "all"}}, "task.learn: with `all`, prompts cannot"),
        ({}, {"training": {"parallel": "fsdp"}}, "training.parallel: with fsdp no process holds the whole student"),
        ({"max_new_tokens": 200}, {}, "max_new_tokens: 200 leaves no room for a prompt in task.max_length 200"),
        ({}, {"teacher": {"kind": "local", "model": "m", "signals": "store"}},
         "rollouts.fraction: rollouts.fraction > 0 wants teacher.signals: live"),
        ({}, {"teacher": {"kind": "stored", "path": "p"}}, "wants teacher.kind: local and teacher.signals: live"),
        ({}, {"objectives": [{"kind": "hard_labels"}]}, "objectives: no objective learns from the teacher alone"),
        ({"fraction": 1.0, "cold_start": 0.0}, {"objectives": [{"kind": "jsd"}, {"kind": "hard_labels"}]},
         "rollouts.fraction: in every step the student writes, so hard_labels never has a label"),
        (VLLM, {"objectives": [{"kind": "contrastive_skew"}], "student": ALL}, "that is skew_kl. Use it"),
        (VLLM, {"student": {"kind": "from_teacher", "layers": 2}}, "vocabulary.keep: the served teacher writes"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told(tmp_path: Path, rollouts: dict[str, Any], changes: Any, told: str) -> None:
    assert told in problem_of(tmp_path, rollouts, **changes)


@pytest.mark.parametrize(
    ("rollouts", "changes", "told"),
    [
        ({"fraction": 0.0}, {}, "rollouts.fraction: it is 0: nothing is written."),
        ({"cold_start": 1.0}, {}, "rollouts.cold_start: it is all of the training"),
        ({}, {"objectives": [{"kind": "jsd"}, {"kind": "hard_labels"}]},
         "hard_labels takes part in steps on the data's answers only"),
    ],
)  # fmt: skip
def test_what_should_be_heard_is_told(tmp_path: Path, rollouts: dict[str, Any], changes: Any, told: str) -> None:
    notes = noted(tmp_path, rollouts, **changes)
    notes.finish()
    assert any(told in warning for warning in notes.warnings)


def test_a_served_teacher_may_write_for_labels_alone(tmp_path: Path) -> None:
    """Sequence-level distillation: the text is the teacher's, so its tokens are labels."""
    notes = noted(tmp_path, VLLM, student=ALL, objectives=[{"kind": "hard_labels"}])
    notes.finish()
    assert not notes.warnings


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"source": "vllm"}, "needs `url` and `model`"),
        ({"url": "http://localhost:8000"}, "the student writes here, by itself"),
        ({"source": "vllm", "url": "localhost:8000", "model": "m"}, "pattern"),
        ({"fraction": 1.5}, "less than or equal to 1"),
        ({"top_p": 0.0}, "greater than 0"),
    ],
)
def test_fields_that_contradict_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RolloutsSpec(**{"fraction": 0.5, **fields})
